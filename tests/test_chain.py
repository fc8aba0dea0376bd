"The whole chain as a person walks it: folders and commands, from images to answers"
import csv, json, re, subprocess, sys

import pytest

from bear_classifier import BearClassifier
from bear_classifier.core import image_files
from photos import PHOTOS, needs_weights


def run(*args, cwd=None):
    "A command as a person would type it: its exit code, what it printed, what it complained of"
    code = 'from bear_classifier.cli import main; main()'
    o = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=500)
    return o.returncode, o.stdout, o.stderr


def ok(*args, **kw):
    code, out, err = run(*args, **kw)
    assert code == 0, err
    return out


@pytest.fixture(scope='module')
def home(tmp_path_factory): return tmp_path_factory.mktemp('home')


@pytest.fixture(scope='module')
def bears(home):
    ok('practice', home/'bears', '--n', 30, '--seed', 77)
    return home/'bears'


@pytest.fixture(scope='module')
def model(home, bears):
    "A model of a small untrained body: what is tested is the chain, not how good it is"
    pytest.importorskip('fastai', reason='the training part is not installed')
    said = ok('train', bears, home/'model', '--arch', 'bearnet_small', '--no-pretrained', '--size', 96)
    assert re.search(r'validation accuracy \d+\.\d% \(\d+\.\d% to \d+\.\d%, \d+ images\)', said)
    return home/'model'


def test_train_writes_a_bundle_that_answers(model, bears):
    clf = BearClassifier.load(model)
    assert set(clf.classes) == {'black', 'grizzly', 'teddy'}
    assert (clf.bundle.path/'README.md').is_file() and (model/'current').read_text().strip() == clf.bundle.path.name
    assert len(list(clf.predict_many(image_files(bears)))) == 90


def test_predict_prints_writes_and_reports(model, bears, tmp_path):
    (tmp_path/'odd.jpg').write_text('hello')
    out = ok('predict', model, bears/'teddy', tmp_path/'odd.jpg', '--csv', tmp_path/'a.csv')
    rows = list(csv.DictReader((tmp_path/'a.csv').open(encoding='utf-8')))
    assert out == '' and len(rows) == 31 and [r['error'] != '' for r in rows].count(True) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.csv', 'odd.jpg']
    lines = [json.loads(o) for o in ok('predict', model, bears/'teddy', '--json').splitlines()]
    assert len(lines) == 30 and all(abs(sum(o['probabilities'].values()) - 1) < 1e-6 for o in lines)


def test_evaluate_prints_and_reports(model, bears, tmp_path):
    said = ok('evaluate', model, bears, '--out', tmp_path/'report')
    assert 'accuracy' in said.lower()
    assert {p.suffix for p in (tmp_path/'report').iterdir()} >= {'.json', '.html'}


def test_a_second_training_adds_a_version(model, bears):
    before = {p.name for p in model.iterdir()}
    ok('train', bears, model, '--arch', 'bearnet_small', '--no-pretrained', '--size', 96)
    after = {p.name for p in model.iterdir()}
    assert len(after) == len(before) + 1 and (model/'current').read_text().strip() in after - before


def test_any_classes_will_do(home, tmp_path):
    pytest.importorskip('fastai', reason='the training part is not installed')
    from bear_classifier.practice import practice_dataset
    d = practice_dataset(tmp_path/'two', n_per_class=20, classes=('black', 'teddy'))
    (d/'black').rename(d/'wild animal')
    ok('train', d, tmp_path/'m', '--arch', 'bearnet_small', '--no-pretrained', '--size', 64)
    assert BearClassifier.load(tmp_path/'m').classes == ('teddy', 'wild animal')


@pytest.mark.parametrize('args,code,words', [
    (['nonsense'], 2, 'nonsense'), (['predict', 'practice'], 2, 'paths'), (['train', 'x', 'y', '--method', 'magic'], 2, 'magic'), (['practice', 'x', '--n', '0'], 2, "'--n'"),
    (['predict', 'nowhere', 'a.jpg'], 1, 'train one'), (['predict', 'practice', 'nothing.jpg'], 1, 'none of these'), (['train', 'nowhere', 'm'], 1, 'no folder'),
    (['predict', 'practice', '.', '--csv', 'no/where/a.csv'], 1, 'no folder'), (['clean', 'rank', '.', '--csv', 'no/where/a.csv'], 1, 'no folder'),
    (['gather', 'x', '--classes', '--n', '5'], 2, "'--classes'"), (['gather', 'x', '--classes'], 2, "'--classes'"), (['evaluate', 'practice', 'nowhere'], 1, 'no folder')])
def test_a_mistake_gets_one_line(args, code, words, tmp_path):
    if args[0] in ('train', 'evaluate'): pytest.importorskip('fastai', reason='the training part is not installed')
    got, out, err = run(*args, cwd=tmp_path)
    assert got == code and words in err.lower() and 'Traceback' not in err, err
    if code == 1: assert len(err.strip().splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


def test_drawings_do_not_mix_with_photos(tmp_path):
    for _ in range(2): ok('practice', tmp_path/'drawn', '--n', 1, '--size', 48)  # again is the same
    (tmp_path/'photos'/'teddy').mkdir(parents=True); (tmp_path/'photos'/'teddy'/'mine.jpg').write_bytes(b'photo')
    (tmp_path/'gathered').mkdir(); (tmp_path/'gathered'/'manifest.jsonl').write_text('')
    for o in ('photos', 'gathered'):
        code, _, err = run('practice', tmp_path/o)
        assert code == 1 and 'name a new folder' in err and len(list((tmp_path/o).rglob('*.jpg'))) == (o == 'photos')


def test_a_review_that_has_not_begun_is_told(bears, tmp_path):
    for c in ('plan', 'apply', 'restore'):
        code, out, err = run('clean', c, bears)
        assert code == 0 and out.startswith('0 ') and 'nothing has been decided yet' in err
        code, _, err = run('clean', c, bears, '--journal', tmp_path/'other.jsonl')
        assert code == 1 and 'other.jsonl' in err


def test_what_is_refused_is_an_error(tmp_path):
    from bear_classifier.core import sha256_of
    from bear_classifier.journal import Journal
    p = tmp_path/'d'/'black'/'a.jpg'; p.parent.mkdir(parents=True); p.write_bytes(b'a'); p.with_name('b.jpg').write_bytes(b'b')
    j = Journal(tmp_path/'d'/'review.jsonl')
    j.decide([('black/b.jpg', sha256_of(b'b'))], 'drop'); ok('clean', 'apply', tmp_path/'d')
    p.with_name('b.jpg').write_bytes(b'another'); j.decide([('black/a.jpg', sha256_of(b'a'))], 'drop'); p.write_bytes(b'edited since')
    for c in ('apply', 'restore'):
        code, out, err = run('clean', c, tmp_path/'d')
        assert code == 1 and '1 refused' in out and 'Traceback' not in err, (out, err)


@pytest.mark.parametrize('folders,words', [({}, 'no images'), ({'teddy': 5}, 'class'), ({'teddy': 5, 'black': 1}, 'black')])
def test_a_poor_dataset_gets_one_line(folders, words, tmp_path):
    pytest.importorskip('fastai', reason='the training part is not installed')
    from bear_classifier.practice import practice_dataset
    d = tmp_path/'d'
    d.mkdir()
    if folders: practice_dataset(d, n_per_class=5, classes=tuple(folders), size=64)
    for k,n in folders.items():
        for p in sorted((d/k).iterdir())[n:]: p.unlink()
    code, out, err = run('train', d, tmp_path/'m', '--arch', 'bearnet_small', '--no-pretrained', '--size', 64)
    assert code == 1 and words in err and 'Traceback' not in err, err
    assert not (tmp_path/'m').exists() or list((tmp_path/'m').iterdir()) == []


def test_help_is_there_for_everything():
    for words in ([], ['train'], ['gather'], ['predict'], ['evaluate'], ['practice'], ['app'], ['version']): assert 'Usage' in ok(*words, '--help')


@pytest.fixture(scope='module')
def photo_model(home):
    said = ok('train', PHOTOS/'bears', home/'photos')
    print(said)
    return home/'photos', said


@needs_weights
def test_photographs_become_a_good_model(photo_model):
    model, said = photo_model
    assert float(re.search(r'validation accuracy ([\d.]+)%', said)[1]) >= 95
    teddies = [json.loads(o) for o in ok('predict', model, PHOTOS/'bears'/'teddy', '--json').splitlines()]
    assert sum(o['verdict'] == 'teddy' for o in teddies) / len(teddies) >= .85
    assert sum(o['label'] == 'teddy' for o in teddies) / len(teddies) >= .97


@needs_weights
def test_strangers_are_told_from_bears(photo_model):
    clf = BearClassifier.load(photo_model[0])
    strangers = list(clf.predict_many(image_files(PHOTOS/'ood')))
    assert sum(p.verdict in ('unsure', 'out_of_domain') for p in strangers) / len(strangers) >= .85


@needs_weights
def test_clothes_do_not_change_what_a_photograph_shows(photo_model):
    from PIL import Image
    from test_core import as_phone, png16, saved
    clf = BearClassifier.load(photo_model[0])
    for f in image_files(PHOTOS/'bears')[10::100]:
        im = Image.open(f).convert('RGB')
        want = clf.predict(im)
        for data in [as_phone(im, o) for o in range(1, 9)] + [saved(im.convert('RGBA'), 'PNG'), png16(im), saved(im.quantize(256), 'PNG')]:
            assert clf.predict(data).label == want.label, f


@pytest.mark.parametrize('args, part', [(('train', 'bears', 'm'), 'train'), (('evaluate', 'practice', 'bears'), 'train'), (('clean', 'rank', 'bears', '--model', 'practice'), 'search'),
                                        (('gather', 'g'), 'search'), (('api',), 'api')])
def test_in_a_light_installation_a_command_says_what_to_install(bears, tmp_path, args, part):
    "One line, no traceback, nothing left behind"
    heavy = ('pandas', 'torch', 'torchvision', 'fastai', 'sklearn', 'scipy', 'matplotlib', 'onnx', 'imagehash', 'httpx', 'ddgs', 'fastapi', 'uvicorn', 'prometheus_client')
    code = f'import sys; sys.modules.update(dict.fromkeys({heavy!r})); from bear_classifier.cli import main; main()'
    args = [str(bears) if o == 'bears' else o for o in args]
    o = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert o.returncode == 1 and o.stderr.count('\n') == 1 and f"pip install 'bear_classifier[{part}]'" in o.stderr and f"'.[{part}]'" in o.stderr, o.stderr
    assert not [p for p in tmp_path.iterdir() if p.name != 'g'] and o.stdout == ''
