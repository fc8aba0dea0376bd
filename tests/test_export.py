"A bundle says what the learner says, in any process; it appears whole or not at all; what is damaged is refused"
import json, os, pickle, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest

pytest.importorskip('fastai', reason='the train extra is not installed')
import numpy as np, onnx, torch
from bear_classifier.core import BundleError, DataError, image_files, load_square, sha256_of, softmax
from bear_classifier import export
from bear_classifier.calibrate import LearnerClassifier
from bear_classifier.export import Graph, check_parity, compare_graphs, export_bundle, graph_bytes, quantize_graph, run_graph
from bear_classifier.infer import BearClassifier
from bear_classifier.practice import practice_dataset
from bear_classifier.train import BearNet, bear_net
from photos import PHOTOS, needs_weights

pytestmark = pytest.mark.usefixtures('cache')


@pytest.fixture(scope='module')
def bears(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('data')/'bears', n_per_class=20, size=96, seed=21)


@pytest.fixture(scope='module')
def learn(bears, probed): return probed(bears)


@pytest.fixture(scope='module')
def model(learn, tmp_path_factory):
    dest = tmp_path_factory.mktemp('models')/'bears'
    export_bundle(learn, dest)
    return dest


@pytest.fixture
def bundle(model, tmp_path):
    src = model/(model/'current').read_text().strip()
    shutil.copytree(src, tmp_path/'bundle')
    return tmp_path/'bundle'


# --- the graph ---

def test_the_graph_is_the_one_that_the_design_promises(learn):
    m = onnx.load_from_string(graph_bytes(learn.model, 48))
    onnx.checker.check_model(m, full_check=True)
    dims = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in [*m.graph.input, *m.graph.output]}
    assert dims['image'] == ['N', 48, 48, 3] and dims['logits'] == ['N', 3] and dims['features'] == ['N', 128] and dims['cam'][:2] == ['N', 3]
    assert m.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8 and len(m.graph.input) == 1
    assert m.opset_import[0].version <= 17 and not {'BatchNormalization', 'Constant', 'Identity'} & {n.op_type for n in m.graph.node}
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in m.graph.initializer) and not any(n.doc_string for n in m.graph.node)


def test_the_same_weights_give_the_same_bytes(learn): assert graph_bytes(learn.model, 48) == graph_bytes(learn.model, 48)


@pytest.mark.parametrize('arch', ['mobilenet_v2', 'resnet18', 'efficientnet_b0', 'shufflenet_v2_x0_5', 'regnet_y_400mf', 'convnext_tiny', 'timm/mobilenetv3_small_050', 'timm/resnet10t', 'timm/convnext_atto'])
def test_bodies_of_both_libraries_export_and_agree(arch):
    torch.manual_seed(0)
    net = bear_net(arch, 3, pretrained=False, size=64).eval()
    x = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    assert check_parity(graph_bytes(net, 64), net, x) < 1e-3


def test_the_map_averages_to_the_logits(learn, bears):
    "Exact: mean over places plus bias is the logit"
    x = np.stack([load_square(o, 48) for o in image_files(bears)[:5]])
    logits, features, cam = run_graph(graph_bytes(learn.model, 48), x)
    bias = learn.model.head.bias.detach().numpy()
    assert np.allclose(cam.mean((2, 3)) + bias, logits, atol=1e-4)


def test_a_graph_of_other_weights_is_refused(learn, bears):
    x = np.stack([load_square(o, 48) for o in image_files(bears)[:4]])
    data = graph_bytes(learn.model, 48)
    import copy
    other = copy.deepcopy(learn.model)
    with torch.no_grad(): other.head.weight[0, 0] += 1
    with pytest.raises(BundleError, match='differs'): check_parity(data, other, x)


def test_what_is_not_a_number_is_no_agreement(learn, bears):
    import copy
    other = copy.deepcopy(learn.model)
    with torch.no_grad(): other.head.bias[0] = float('nan')
    with pytest.raises(BundleError): check_parity(graph_bytes(other, 48), other, np.stack([load_square(o, 48) for o in image_files(bears)[:2]]))


# --- the bundle ---

def test_bundle_and_learner_give_the_same_predictions(learn, model, bears):
    files = image_files(bears)
    ours, theirs = list(BearClassifier.load(model).predict_many(files)), list(LearnerClassifier(learn).predict_many(files))
    assert [p.verdict for p in ours] == [p.verdict for p in theirs]
    for a,b in zip(ours, theirs):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-4) and a.domain_score == pytest.approx(b.domain_score, abs=1e-4)
        assert np.allclose(a.cam, b.cam, atol=1e-3)


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('batch', [1, 64])
def test_a_fresh_process_without_torch_says_the_same(learn, model, bears, threads, batch):
    code = ('import sys, json; from bear_classifier.infer import BearClassifier\n'
            'c = BearClassifier.load(sys.argv[1], threads=int(sys.argv[2]))\n'
            'print(json.dumps([list(p.probabilities.values()) for p in c.predict_many(sys.argv[4:], batch_size=int(sys.argv[3]))]))\n'
            'assert not {"torch", "fastai", "pandas"} & set(sys.modules)')
    files = [str(o) for o in image_files(bears)]
    out = subprocess.run([sys.executable, '-c', code, str(model), str(threads), str(batch), *files], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    with torch.no_grad(): z = Graph(learn.model.eval())(torch.from_numpy(np.stack([load_square(o, 48) for o in files])))[0].numpy()
    card = json.loads((model/(model/'current').read_text().strip()/'model.json').read_text())
    assert np.abs(np.array(json.loads(out.stdout)) - softmax(z, card['temperature'])).max() < 1e-3


def test_the_card_says_all(model, learn, bears):
    folder = model/(model/'current').read_text().strip()
    card = json.loads((folder/'model.json').read_text(encoding='utf-8'))
    assert {'format', 'name', 'version', 'classes', 'size', 'temperature', 'thresholds', 'domain', 'dataset', 'metrics', 'libraries', 'arch', 'method', 'created', 'graph'} <= set(card)
    assert card['classes'] == ['black', 'grizzly', 'teddy'] and card['dataset']['version'] == learn.dls.bears.version and card['dataset']['root_name'] == 'bears'
    assert card['graph']['sha256'] == sha256_of(folder/'model.onnx') and card['graph']['bytes'] == (folder/'model.onnx').stat().st_size
    a = card['metrics']['accuracy']
    assert a['low'] <= a['value'] <= a['high'] and a['n'] == len(learn.heldout.targets)
    assert not any(str(bears.parent) in (folder/o).read_text(encoding='utf-8', errors='replace') for o in ('model.json', 'README.md', 'model.onnx')), 'a folder of this machine is in the bundle'


def test_the_model_card_is_made_of_measured_figures(model):
    folder = model/(model/'current').read_text().strip()
    card, text = json.loads((folder/'model.json').read_text(encoding='utf-8')), (folder/'README.md').read_text(encoding='utf-8')
    head = text.split('---')[1]
    assert 'license: apache-2.0' in head and 'pipeline_tag: image-classification' in head and f"value: {card['metrics']['test']['accuracy']['value']:.4f}" in head
    yaml = pytest.importorskip('yaml', reason='PyYAML is not installed')
    meta = yaml.safe_load(head)
    assert meta['model-index'][0]['results'][0]['dataset']['revision'] == card['dataset']['version']
    assert '## Limits' in text and f"{100*card['metrics']['accuracy']['value']:.1f}%" in text and card['graph']['sha256'] in text


def test_a_new_version_becomes_current_and_the_old_one_stays(learn, tmp_path):
    a, b = export_bundle(learn, tmp_path/'m', version='one'), export_bundle(learn, tmp_path/'m', version='two')
    assert (tmp_path/'m'/'current').read_text().strip() == 'two' and BearClassifier.load(a) and BearClassifier.load(tmp_path/'m').bundle.path == b
    with pytest.raises(DataError, match='already'): export_bundle(learn, tmp_path/'m', version='one')


@pytest.mark.parametrize('version', ['../evil', '', '.', '..', 'current', 'a/b'])
def test_a_version_is_a_name_and_no_path(tmp_path, version):
    with pytest.raises(DataError, match='version'): export._install(tmp_path, version, {}, b'')
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_last_good_state(learn, tmp_path, monkeypatch):
    export_bundle(learn, tmp_path/'m', version='good')
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(export, 'model_card', full)
    with pytest.raises(OSError): export_bundle(learn, tmp_path/'m', version='bad')
    assert sorted(o.name for o in (tmp_path/'m').iterdir()) == ['current', 'good'] and BearClassifier.load(tmp_path/'m').bundle.path.name == 'good'


def test_a_kill_leaves_the_last_good_state(learn, model, tmp_path):
    "Killed again and again in the middle of installing: what is current always loads"
    src = model/(model/'current').read_text().strip()
    code = ('import sys, json, itertools; from pathlib import Path; from bear_classifier import export\n'
            'src, dest = map(Path, sys.argv[1:3]); card = json.loads((src/"model.json").read_text()); graph = (src/"model.onnx").read_bytes()\n'
            'print("ready", flush=True)\n'
            'for i in itertools.count(): export._install(dest, f"{sys.argv[3]}-{i}", card, graph)')
    (tmp_path/'m').mkdir()
    for k in range(2 if os.environ.get('BEAR_LONG') else 1):
        p = subprocess.Popen([sys.executable, '-c', code, str(src), str(tmp_path/'m'), str(k)], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline().strip() == 'ready'
        while not (tmp_path/'m'/'current').exists(): time.sleep(.01)
        for _ in range(10): time.sleep(.013)
        p.send_signal(signal.SIGKILL); p.wait()
        assert BearClassifier.load(tmp_path/'m').classes == ('black', 'grizzly', 'teddy')


# --- int8 ---

def test_int8_is_kept_only_where_it_costs_nothing(learn, bears):
    x = np.stack([load_square(o, 48) for o in image_files(bears)])
    a = graph_bytes(learn.model, 48); b = quantize_graph(a, x[:24])
    y = run_graph(a, x)[0].argmax(1)
    c = compare_graphs(a, b, x, y)
    assert c['int8']['bytes'] < .5*c['float32']['bytes'] and c['kept'] == (c['agreement'] >= .99)
    broken = compare_graphs(a, graph_bytes(BearNet(learn.model.body, 128, 3), 48), x, y)   # another head: it agrees by chance only
    assert broken['agreement'] < .99 and not broken['kept']


def test_an_int8_bundle_is_a_bundle(learn, bears, tmp_path):
    folder = export_bundle(learn, tmp_path/'m', int8=True)
    card = json.loads((folder/'model.json').read_text())
    v = card['variants']
    assert {'float32', 'int8', 'agreement', 'domain_agreement', 'kept'} <= set(v)
    assert card['graph']['bytes'] == v['int8' if v['kept'] else 'float32']['bytes'] and 'ms an image' in (folder/'README.md').read_text()
    assert all(p.ok for p in BearClassifier.load(tmp_path/'m').predict_many(image_files(bears)[:8]))


# --- what is refused ---

def test_a_truncated_graph_is_refused(bundle):
    data = (bundle/'model.onnx').read_bytes()
    for n in (0, 10, len(data)//2, len(data)-1):
        (bundle/'model.onnx').write_bytes(data[:n])
        with pytest.raises(BundleError): BearClassifier.load(bundle)


def test_one_changed_bit_is_refused(bundle):
    data = bytearray((bundle/'model.onnx').read_bytes())
    for at in np.random.default_rng(0).integers(0, len(data), 12):
        data[at] ^= 4; (bundle/'model.onnx').write_bytes(data)
        with pytest.raises(BundleError, match='card'): BearClassifier.load(bundle)
        data[at] ^= 4


def vouch(bundle, data):
    "Put in a graph, and let the card vouch for it"
    (bundle/'model.onnx').write_bytes(data)
    card = json.loads((bundle/'model.json').read_text())
    card['graph'].update(sha256=sha256_of(data), bytes=len(data))
    (bundle/'model.json').write_text(json.dumps(card))


def test_weights_in_other_files_are_refused(bundle, tmp_path):
    m = onnx.load(bundle/'model.onnx')
    secret = tmp_path/'secret.bin'; secret.write_bytes(b'\0'*10**6)
    for name in ('secret.bin', '../secret.bin', str(secret)):
        w = onnx.ModelProto(); w.CopyFrom(m)
        t = max(w.graph.initializer, key=lambda o: len(o.raw_data))
        onnx.external_data_helper.set_external_data(t, name); t.ClearField('raw_data'); t.data_location = onnx.TensorProto.EXTERNAL
        vouch(bundle, w.SerializeToString())
        with pytest.raises(BundleError): BearClassifier.load(bundle)


def test_a_graph_that_asks_for_huge_memory_is_refused(bundle):
    "A constant of a million gigabytes, declared in a few bytes"
    m = onnx.load(bundle/'model.onnx')
    m.graph.initializer.append(onnx.helper.make_tensor('shape', onnx.TensorProto.INT64, [1], [2**50]))
    m.graph.node.insert(0, onnx.helper.make_node('ConstantOfShape', ['shape'], ['huge']))
    m.graph.node.insert(1, onnx.helper.make_node('ReduceSum', ['huge'], ['total'], keepdims=0))
    m.graph.output.append(onnx.helper.make_tensor_value_info('total', onnx.TensorProto.FLOAT, []))
    vouch(bundle, m.SerializeToString())
    with pytest.raises(BundleError, match='memory|loaded'): BearClassifier.load(bundle).predict(np.zeros((64, 64, 3), np.uint8))


def test_a_graph_with_operators_of_its_own_is_refused(bundle):
    m = onnx.load(bundle/'model.onnx')
    m.graph.node[0].op_type, m.graph.node[0].domain = 'PyOp', 'ai.onnx.contrib'
    m.opset_import.append(onnx.helper.make_opsetid('ai.onnx.contrib', 1))
    vouch(bundle, m.SerializeToString())
    with pytest.raises(BundleError): BearClassifier.load(bundle)


def test_a_graph_from_the_future_is_refused_with_the_way_out(bundle):
    m = onnx.load(bundle/'model.onnx'); m.opset_import[0].version = 99; vouch(bundle, m.SerializeToString())
    with pytest.raises(BundleError, match='newer'): BearClassifier.load(bundle)
    card = json.loads((bundle/'model.json').read_text()); card['format'] = 2
    (bundle/'model.json').write_text(json.dumps(card))
    with pytest.raises(BundleError, match='update'): BearClassifier.load(bundle)


def test_a_pickle_is_no_bundle_and_runs_nothing(bundle, tmp_path):
    class Harmless:
        def __reduce__(self): return (Path.write_text, (tmp_path/'ran', 'x'))
    bad = pickle.dumps(Harmless())
    for name in ('model.onnx', 'model.json'):
        good = (bundle/name).read_bytes()
        (bundle/name).write_bytes(bad)
        with pytest.raises(BundleError): BearClassifier.load(bundle)
        (bundle/name).write_bytes(good)
    vouch(bundle, bad)
    with pytest.raises(BundleError): BearClassifier.load(bundle)
    assert not (tmp_path/'ran').exists()


# --- photographs ---

@needs_weights
def test_a_model_of_photographs_is_exported_and_agrees(tmp_path):
    from bear_classifier.train import train_model
    learn = train_model(PHOTOS/'bears')
    folder = export_bundle(learn, tmp_path/'bears', int8=True)
    card = json.loads((folder/'model.json').read_text())
    print(card['metrics']['accuracy'], card['parity'], card['variants'])
    assert card['parity'] < 1e-3 and card['metrics']['accuracy']['value'] >= .95
    teddies = list(BearClassifier.load(folder).predict_many(image_files(PHOTOS/'bears'/'teddy')))
    assert np.mean([p.verdict == 'teddy' for p in teddies]) > .9
