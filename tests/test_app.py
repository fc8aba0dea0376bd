"The widgets without a browser: what they answer, remember, keep and never show"
import json, os, sqlite3, subprocess, sys, threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import numpy as np, pytest
from bear_classifier import app
from bear_classifier.app import Dashboard, Feedback, draw_samples, export_feedback, look
from bear_classifier.core import Prediction, image_files, sha256_of
from bear_classifier.infer import BearClassifier
from photos import PHOTOS, needs_photos

@pytest.fixture(scope='module')
def clf(): return BearClassifier.load(os.environ['BEAR_TEST_MODEL']) if os.environ.get('BEAR_TEST_MODEL') else BearClassifier.practice()

@pytest.fixture
def talk(clf, monkeypatch):
    "Speak to a dashboard as its page does"
    def talk(feedback=None, clf=clf):
        page, sent = Dashboard(clf, feedback), []
        monkeypatch.setattr(page, 'send', lambda m, buffers=None: sent.append(m))
        def say(content, *buffers): page._hear(page, content, list(buffers)); return sent[-1]
        return page, say
    return talk

BEAR = (app.STATIC/'sample-teddy.jpg').read_bytes()

def test_an_answer_is_plain_json(talk):
    _, say = talk()
    m = say(dict(kind='image', id=7, name='x'), memoryview(BEAR))
    assert json.loads(json.dumps(m)) == m and m['id'] == 7 and m['ok'] and m['ask'] is None
    assert abs(sum(b['p'] for b in m['bars']) - 1) < 1e-6 and 0 <= np.min(m['map']) <= np.max(m['map']) <= 1

@pytest.mark.parametrize('data', [b'', b'x', b'<svg onload="alert(1)"/>', b'%PDF-1.4', b'PK\x03\x04zip', BEAR[:777], b'GIF89a', bytes(11*2**20)])
def test_bad_files_get_a_sentence(talk, data):
    _, say = talk()
    m = say(dict(kind='image', id=1), memoryview(data))
    assert not m['ok'] and m['sentence'][0].isupper() and 'Error' not in m['sentence'] and '(' not in m['sentence'] and len(m['sentence']) < 160

def test_an_unforeseen_error_shows_nothing(talk, clf, caplog):
    class Broken:
        classes, card, name = clf.classes, clf.card, 'x'
        def predict(self, source): raise RuntimeError('password=1234')
    _, say = talk(clf=Broken())
    m = say(dict(kind='image', id=1), memoryview(BEAR))
    assert not m['ok'] and m['again'] and '1234' not in json.dumps(m) and 'password=1234' in caplog.text

def test_a_page_remembers_no_more_than_it_says(talk, tmp_path):
    page, say = talk(Feedback(tmp_path/'f', images=True))
    for i in range(80): say(dict(kind='image', id=i), memoryview(BEAR))
    assert len(page.seen) == page.facts['keep'] == 60
    assert not say(dict(kind='feedback', id=3, right='teddy'))['ok'] and say(dict(kind='feedback', id=79, right='teddy'))['ok']

def test_a_picture_is_kept_only_where_that_was_said(talk, tmp_path):
    for keep in (False, True):
        page, say = talk(Feedback(tmp_path/f'{keep}.sqlite', images=keep))
        say(dict(kind='image', id=1), memoryview(BEAR))
        assert page.seen[1][2] == (BEAR if keep else None)
        assert ('picture' in page.facts['feedback'] and 'not' not in page.facts['feedback']) == keep
        say(dict(kind='feedback', id=1, right='grizzly'))
        assert [o['image'] for o in page.feedback.rows()] == [BEAR if keep else None]

def test_a_page_holds_few_pictures_and_many_answers(talk, tmp_path):
    "What is no picture is not kept, and the oldest pictures go before the answers do"
    page, say = talk(Feedback(tmp_path/'f', images=True))
    for i in range(8): say(dict(kind='image', id=i), memoryview(BEAR + bytes(9 * 2**20)))
    say(dict(kind='image', id='x'), memoryview(bytes(2**20)))
    assert sum(len(o[2] or b'') for o in page.seen.values()) <= 32 * 2**20 and page.seen['x'][2] is None
    assert say(dict(kind='feedback', id=0, right='teddy'))['ok'] and page.feedback.rows()[0]['image'] is None
    assert say(dict(kind='feedback', id=7, right='teddy'))['ok'] and page.feedback.rows()[1]['image'].startswith(BEAR)

def test_an_unforeseen_error_while_noting_is_told(talk, tmp_path, monkeypatch):
    page, say = talk(Feedback(tmp_path/'f'))
    say(dict(kind='image', id=1), memoryview(BEAR))
    monkeypatch.setattr(Feedback, 'add', lambda *a: 1/0)
    m = say(dict(kind='feedback', id=1, right='teddy'))
    assert m['kind'] == 'noted' and not m['ok'] and 'try again' in m['sentence']

def test_just_below_the_threshold_is_not_the_threshold(clf):
    asked = clf.card['thresholds']['unsure_below']
    words = app.detail(Prediction('unsure', 'teddy', asked - .0005, {'teddy': asked - .0005}), clf.card)
    assert 'just below' in words

def test_a_full_disk_is_told(talk, tmp_path):
    (tmp_path/'file').write_text('no folder')
    _, say = talk(Feedback(tmp_path/'file'/'f.sqlite'))
    say(dict(kind='image', id=1), memoryview(BEAR))
    m = say(dict(kind='feedback', id=1, right='grizzly'))
    assert not m['ok'] and 'could not be kept' in m['sentence']

def test_a_picture_is_noted_once(talk, tmp_path):
    page, say = talk(Feedback(tmp_path/'f.sqlite'))
    say(dict(kind='image', id=1), memoryview(BEAR))
    first, again = (say(dict(kind='feedback', id=1, right=o)) for o in ('grizzly', 'teddy'))
    assert first['ok'] and again['ok'] and 'already' in again['sentence'] and [o['correction'] for o in page.feedback.rows()] == ['grizzly']

def test_a_full_file_takes_no_more_and_loses_nothing(talk, tmp_path):
    page, say = talk(Feedback(tmp_path/'f.sqlite', images=True, limit=2**18))
    told = []
    for i in range(400//(len(BEAR)//1024) + 2):
        say(dict(kind='image', id=i), memoryview(BEAR + bytes(i))); told.append(say(dict(kind='feedback', id=i, right='teddy')))
    kept = sum(o['ok'] for o in told)
    assert 0 < kept < len(told) and 'could not be kept' in told[-1]['sentence'] and len(page.feedback.rows()) == kept
    assert (tmp_path/'f.sqlite').stat().st_size <= 2**18
    assert page.feedback.forget(sha256_of(BEAR)) == 1 and say(dict(kind='feedback', id=len(told) - 1, right='teddy'))['ok'], 'there is room again'

def _add(args):
    path, i = args
    for j in range(20): Feedback(path).add(Prediction('teddy', 'teddy', .9, {'teddy': .9}), 'teddy', 'm', f'{i:02}{j:02}' + '0'*60)

def test_many_processes_write_at_once(tmp_path):
    with ProcessPoolExecutor(4) as pool: list(pool.map(_add, [(tmp_path/'f.sqlite', i) for i in range(4)]))
    assert len({o['sha256'] for o in Feedback(tmp_path/'f.sqlite').rows()}) == 80
    with sqlite3.connect(tmp_path/'f.sqlite') as db: assert db.execute('pragma journal_mode').fetchone() == ('wal',)

def test_many_make_the_file_at_once(tmp_path):
    "SQLite refuses one of two that set a new file up, without waiting"
    wrong = []
    def make(path, ready):
        ready.wait()
        try: Feedback(path)._db().close()
        except sqlite3.OperationalError as e: wrong.append(str(e))
    for i in range(120):
        ready = threading.Barrier(8); makers = [threading.Thread(target=make, args=(tmp_path/f'{i}.sqlite', ready)) for _ in range(8)]
        for o in makers: o.start()
        for o in makers: o.join()
    assert wrong == []

def test_forgotten_is_gone_from_the_disk(tmp_path):
    fb = Feedback(tmp_path/'f.sqlite', images=True)
    fb.add(Prediction('teddy', 'teddy', .9, {'teddy': .9}), 'grizzly', 'm', sha256_of(BEAR), BEAR)
    fb.add(Prediction('teddy', 'teddy', .9, {'teddy': .9}), 'grizzly', 'm', sha256_of(b'other'), b'other')
    assert fb.forget('') == 0 and fb.forget('%') == 0 and fb.forget(sha256_of(BEAR)[:12].upper()) == 1
    assert not any(BEAR[500:600] in f.read_bytes() for f in tmp_path.iterdir()) and len(fb.rows()) == 1

def test_export_is_a_dataset_and_repeats(tmp_path):
    fb = Feedback(tmp_path/'f.sqlite', images=True)
    p = Prediction('teddy', 'teddy', .9, {'teddy': .9})
    for right in ('grizzly', 'grizzly', 'none'): fb.add(p, right, 'm', sha256_of(BEAR), BEAR)
    assert export_feedback(fb.path, tmp_path/'d') == dict(answers=3, exported=1, without_image=0, none_of_these=1)
    assert export_feedback(fb.path, tmp_path/'d')['exported'] == 0
    assert [f.relative_to(tmp_path/'d') for f in image_files(tmp_path/'d')] == [Path('grizzly')/f'{sha256_of(BEAR)[:16]}.jpg']
    line = json.loads((tmp_path/'d'/'manifest.jsonl').read_text())
    assert line['status'] == 'kept' and line['label'] == 'grizzly' and line['sha256'] == sha256_of(BEAR) and line['width'] and line['height']

def test_a_correction_cannot_name_a_folder(talk, tmp_path):
    page, say = talk(Feedback(tmp_path/'f.sqlite', images=True))
    say(dict(kind='image', id=1), memoryview(BEAR))
    for right in ('../../etc', '', None, 5, 'grizzly/..', ['teddy']): assert not say(dict(kind='feedback', id=1, right=right))['ok']
    assert page.feedback.rows() == []

def test_samples_are_the_ones_drawn_by_the_code(tmp_path):
    for f in draw_samples(tmp_path):
        from PIL import Image
        a, b = (np.asarray(Image.open(o), float) for o in (f, app.STATIC/f.name))
        assert a.shape == b.shape and np.abs(a - b).mean() < 8, f.name

def test_the_samples_show_all_kinds_of_answer(clf):
    verdicts = [look(clf, (app.STATIC/f'sample-{k}.jpg').read_bytes()).verdict for k in ('black', 'grizzly', 'teddy', 'cat')]
    assert verdicts == ['black', 'grizzly', 'teddy', 'out_of_domain']

def test_a_page_without_a_model_says_so(tmp_path, caplog):
    page = app.dashboard(tmp_path/'nowhere')
    assert 'Back soon' in page.value and str(tmp_path) not in page.value and str(tmp_path) in caplog.text

def test_other_classes_get_no_bears(clf):
    class Dogs: classes, card, name = ('poodle', 'snow_dog'), dict(name='dogs'), 'dogs'
    facts = Dashboard(Dogs()).facts
    assert facts['samples'] == [] and 'snow dog' in facts['lead'] and ['How good', 'It has not been measured.'] in facts['about']

def test_the_kernel_stays_small():
    "What a visitor's process loads"
    code = ("import sys; from bear_classifier.app import dashboard; dashboard(); bad = {'torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'sklearn', 'voila', 'jupyter_server', 'nbconvert', 'requests'};"
            "print(sorted(bad & set(sys.modules)))")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

@needs_photos
def test_real_files_of_every_kind_get_a_sentence(talk):
    _, say = talk()
    awkward, broken = ([f for f in sorted((PHOTOS/k).rglob('*')) if f.is_file() and f.suffix != '.csv'] for k in ('awkward', 'broken'))
    for f in awkward + broken:
        m = say(dict(kind='image', id=1, name=f.name), memoryview(f.read_bytes()))
        if f.stat().st_size <= app.LIMIT: assert m['ok'] == (f in awkward), (f.name, m.get('sentence'))
        assert m['sentence']
