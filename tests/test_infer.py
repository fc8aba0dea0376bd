"Bundles from outside are hostile until checked; answers do not depend on how an image is handed in"
import io, json, os, shutil, subprocess, sys

import numpy as np, pytest
from PIL import Image

from bear_classifier import BearClassifier
from bear_classifier.core import BundleError, DataError, ImageError, image_files, sha256_of
from bear_classifier.practice import practice_dataset
from test_core import as_phone, png16, saved


@pytest.fixture(scope='module')
def clf(): return BearClassifier.practice()


@pytest.fixture(scope='module')
def bears(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('bears'), n_per_class=6, seed=4321)


@pytest.fixture
def bundle(clf, tmp_path):
    shutil.copytree(clf.bundle.path, tmp_path/'bundle')
    return tmp_path/'bundle'


def change(bundle, **kw):
    card = json.loads((bundle/'model.json').read_text(encoding='utf-8'))
    for k,v in kw.items():
        at = card
        *path, last = k.split('__')
        for o in path: at = at[o]
        at[last] = v
    (bundle/'model.json').write_text(json.dumps(card))


def swap_graph(bundle, data):
    "A graph that its card vouches for"
    (bundle/'model.onnx').write_bytes(data)
    change(bundle, graph__sha256=sha256_of(data))


@pytest.mark.parametrize('kw,words', [
    (dict(format=2), 'update'), (dict(format=None), 'format'), (dict(format='1'), 'format'), (dict(classes=[]), 'classes'), (dict(classes=['a', 'a', 'b']), 'classes'),
    (dict(classes='abc'), 'classes'), (dict(classes=['a', 'b', 'c', 'd']), 'does not fit'), (dict(size=10**9), 'size'), (dict(size='224'), 'size'), (dict(size=True), 'size'),
    (dict(temperature=0), 'temperature'), (dict(temperature=float('nan')), 'temperature'), (dict(thresholds={}), 'thresholds'), (dict(thresholds__unsure_below=7), 'thresholds'),
    (dict(graph__file='/etc/passwd'), 'graph'), (dict(graph__file='../x.onnx'), 'graph'), (dict(graph__sha256='0'*64), 'swapped'), (dict(graph=3), 'graph'),
    (dict(domain={}), 'out-of-domain'), (dict(domain__shape=[10**9, 10**9]), 'out-of-domain'), (dict(domain__reference='!!'), 'out-of-domain'), (dict(domain__shape=[1, -1]), 'does not fit'),
    (dict(domain__method='pickle'), 'out-of-domain'), (dict(domain__k=0), 'out-of-domain')])
def test_a_wrong_card_is_refused(bundle, kw, words):
    change(bundle, **kw)
    with pytest.raises(BundleError, match=words): BearClassifier.load(bundle)


@pytest.mark.parametrize('data', [b'', b'{', b'[1]', b'\xff\xfe', b'[' * 100_000, b'null'])
def test_a_damaged_card_is_refused(bundle, data):
    (bundle/'model.json').write_bytes(data)
    with pytest.raises(BundleError): BearClassifier.load(bundle)


def test_a_damaged_graph_is_refused(bundle):
    graph = (bundle/'model.onnx').read_bytes()
    for data in (b'', graph[:len(graph)//2], b'\x80\x04pickle', os.urandom(5000)):
        swap_graph(bundle, data)
        with pytest.raises(BundleError): BearClassifier.load(bundle)
    (bundle/'model.onnx').unlink()
    with pytest.raises(BundleError, match='missing'): BearClassifier.load(bundle)


def test_a_graph_may_not_read_other_files(bundle):
    onnx = pytest.importorskip('onnx', reason='onnx writes the hostile graph')
    m = onnx.load_model_from_string((bundle/'model.onnx').read_bytes())
    t = max(m.graph.initializer, key=lambda o: len(o.raw_data))
    t.ClearField('raw_data')
    t.data_location = onnx.TensorProto.EXTERNAL
    t.external_data.add(key='location', value='../../../../etc/passwd')
    swap_graph(bundle, m.SerializeToString())
    with pytest.raises(BundleError, match='other files'): BearClassifier.load(bundle)


def test_a_graph_of_another_shape_is_refused(bundle):
    onnx = pytest.importorskip('onnx', reason='onnx writes the other graph')
    h = onnx.helper
    g = h.make_graph([h.make_node('Identity', ['x'], ['logits'])], 'g', [h.make_tensor_value_info('x', 1, [1])], [h.make_tensor_value_info('logits', 1, [1])])
    swap_graph(bundle, h.make_model(g, opset_imports=[h.make_opsetid('', 17)], ir_version=8).SerializeToString())
    with pytest.raises(BundleError, match='does not fit'): BearClassifier.load(bundle)


def test_a_models_folder_leads_to_its_current_version(bundle, tmp_path):
    (tmp_path/'current').write_text('bundle\n')
    assert BearClassifier.load(tmp_path).bundle.path == bundle
    for bad in ('..', '../bundle', '/etc', '', 'v9', 'a/b'):
        (tmp_path/'current').write_text(bad)
        with pytest.raises(BundleError): BearClassifier.load(tmp_path)


def test_every_way_in_gives_the_same_answer(clf, bears):
    f = image_files(bears)[0]
    a = np.asarray(Image.open(f).convert('RGB'))
    answers = [clf.predict(o) for o in (f, str(f), f.read_bytes(), open(f, 'rb'), io.BytesIO(f.read_bytes()), Image.open(f), a)]
    assert len({o.verdict for o in answers}) == 1
    assert np.ptp([o.probability for o in answers]) < 1e-6
    assert answers[0].path == answers[1].path == str(f) and answers[2].path is None


def test_orientation_and_encoding_do_not_change_the_answer(clf, bears):
    for f in image_files(bears)[::6]:
        im = Image.open(f).convert('RGB')
        want = clf.predict(im)
        clothes = [as_phone(im, o) for o in range(1, 9)] + [saved(im.convert('RGBA'), 'PNG'), png16(im), saved(im, 'WEBP', lossless=True)]
        for data in clothes:
            p = clf.predict(data)
            assert p.label == want.label and abs(p.probability - want.probability) < .05
        assert clf.predict(saved(im.quantize(256), 'PNG')).label == want.label


def test_a_batch_equals_one_at_a_time(clf, bears):
    files = image_files(bears)
    for size in (1, 5, 64):
        many = list(clf.predict_many(files, batch_size=size))
        for f,p in zip(files, many):
            one = clf.predict(f)
            assert p.path == str(f) and p.verdict == one.verdict
            assert max(abs(p.probabilities[c] - one.probabilities[c]) for c in clf.classes) < 1e-3 and abs(p.domain_score - one.domain_score) < 1e-3


def test_bad_files_have_their_place_in_the_stream(clf, bears, tmp_path):
    (tmp_path/'text.jpg').write_text('hello')
    good = image_files(bears)[0]
    answers = list(clf.predict_many([good, tmp_path/'text.jpg', b'', good, tmp_path/'gone.jpg'], batch_size=2))
    assert [p.ok for p in answers] == [True, False, False, True, False]
    assert 'text' in answers[1].error and 'empty' in answers[2].error and 'no file' in answers[4].error
    with pytest.raises(ImageError): clf.predict(tmp_path/'text.jpg')
    assert list(clf.predict_many([])) == []


def test_one_path_is_no_list_of_paths(clf, bears):
    "A string would be taken letter by letter"
    one = image_files(bears)[0]
    for o in (str(one), one, one.read_bytes()):
        with pytest.raises(DataError, match='list'): next(iter(clf.predict_many(o)))
    assert clf.predict_squares([]) == [] and len(list(clf.predict_many([one]*3, batch_size=0))) == 3 and list(clf.predict_many([])) == []


def test_the_stream_takes_no_more_than_it_needs(clf, bears):
    "An endless source is read a few batches ahead, not to its end"
    taken = 0
    def endless():
        nonlocal taken
        while True: taken += 1; yield image_files(bears)[0]
    stream = clf.predict_many(endless(), batch_size=4, workers=2)
    for _ in range(8): next(stream)
    assert taken <= 24


def test_a_map_shows_where_it_looked(clf, bears):
    p = clf.predict(image_files(bears)[0])
    assert p.cam.ndim == 2 and 0 <= p.cam.min() and p.cam.max() <= 1 + 1e-6


def test_a_fresh_process_and_more_threads_agree(clf, bears):
    "Without torch in the process, whatever the number of threads"
    f = image_files(bears)[3]
    code = ('import sys, json; from bear_classifier import BearClassifier; from bear_classifier.infer import bundle_dir\n'
            'p = BearClassifier.load(sys.argv[1], threads=2).predict(sys.argv[2]); assert "torch" not in sys.modules; print(json.dumps(p.probabilities))')
    out = subprocess.run([sys.executable, '-c', code, clf.bundle.path, f], capture_output=True, text=True, check=True).stdout
    assert all(abs(json.loads(out)[k] - v) < 1e-3 for k,v in clf.predict(f).probabilities.items())
