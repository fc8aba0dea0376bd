"The probe is solved, honest and cached; fine-tuning resumes and never does harm; bodies come whole and with their colours"
import os, pickle, subprocess, sys
from pathlib import Path

import pytest

pytest.importorskip('fastai', reason='the train extra is not installed')
import numpy as np, pandas as pd, torch
from fastai.vision.all import Callback, ClassificationInterpretation, Learner
from bear_classifier.calibrate import honest_rows
from bear_classifier.core import DataError, ImageError, load_square, softmax
from bear_classifier.data import RandomView, Square, bear_dls, cache_dir, dataset, split
from bear_classifier.practice import practice_dataset
from bear_classifier import train
from bear_classifier.train import (BearNet, bear_learner, bear_net, bearnet_small, extract_features, fine_tune_from_probe, learning_curve,
                                   plot_learning_curve, probe, train_model, trim_cache)
from photos import PHOTOS, needs_weights

pytestmark = pytest.mark.usefixtures('cache')

NOWHERE = dict(https_proxy='http://127.0.0.1:9', http_proxy='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9', HF_HUB_OFFLINE='1')


@pytest.fixture(scope='module')
def bears(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('data')/'bears', n_per_class=16, size=96)


@pytest.fixture(scope='module')
def dls(bears): return bear_dls(bears, size=48, bs=8)


def seeded(dls, **kw): torch.manual_seed(0); return bear_learner(dls, 'bearnet_small', **kw)


@pytest.fixture(scope='module')
def learn(dls): return probe(seeded(dls))


def head(learn): return learn.model.head.weight.detach().numpy(), learn.model.head.bias.detach().numpy()


# --- the network ---

FAMILIES = {'mobilenet_v2': 'classifier', 'mobilenet_v3_small': 'classifier', 'resnet18': 'fc', 'efficientnet_b0': 'classifier', 'densenet121': 'classifier',
            'regnet_y_400mf': 'fc', 'shufflenet_v2_x0_5': 'fc', 'mnasnet0_5': 'classifier', 'convnext_tiny': 'classifier', 'swin_t': 'head', 'squeezenet1_0': 'classifier'}

@pytest.mark.parametrize('name', FAMILIES)
def test_a_torchvision_body_is_all_that_comes_before_the_pool(name):
    "The model's own last layers on our pooled features give the model's own logits"
    from torchvision import models
    torch.manual_seed(0); model = models.get_model(name).eval()
    net = BearNet(train._before_pool(model), 1, 3, (0.,)*3, (1.,)*3).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        feats = net.maps(x) if name == 'squeezenet1_0' else net.features(x)
        if name == 'convnext_tiny': feats = feats[..., None, None]
        got = getattr(model, FAMILIES[name])(feats).flatten(1)
        assert torch.allclose(got, model(x), atol=1e-4)


@pytest.mark.parametrize('name', [*FAMILIES, 'googlenet', 'inception_v3', 'vgg11'])
def test_torchvision_bodies_get_the_colours_of_their_weights(name):
    from torchvision import models
    net, meta = bear_net(name, pretrained=False, size=96), models.get_model_weights(name).DEFAULT.transforms()
    own = name in ('googlenet', 'inception_v3')  # these two rescale ImageNet's colours themselves, to this
    assert net.mean.flatten().tolist() == pytest.approx([.5]*3 if own else meta.mean) and net.std.flatten().tolist() == pytest.approx([.5]*3 if own else meta.std)
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        maps = net.eval().maps(x)
        assert maps.ndim == 4 and torch.allclose(net.body((x - net.mean)/net.std), maps) and torch.isfinite(net(x)).all()


@pytest.mark.parametrize('name', ['timm/resnet18', 'convnext_atto', 'mobilenetv3_small_050', 'vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'efficientnet_lite0', 'inception_next_atto'])
def test_timm_bodies_give_maps_and_bring_their_colours(name):
    timm = pytest.importorskip('timm', reason='timm is not installed')
    net, cfg = bear_net(name, pretrained=False, size=96), timm.get_pretrained_cfg(name.removeprefix('timm/'))
    assert net.mean.flatten().tolist() == pytest.approx(cfg.mean) and net.std.flatten().tolist() == pytest.approx(cfg.std)
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        logits, feats, cam = net.eval().outputs(x)
        assert torch.allclose(net(x), logits, atol=1e-5) and feats.shape == (2, net.head.in_features)
        assert torch.allclose(cam.mean((2, 3)) + net.head.bias, logits, atol=1e-4)


def test_the_maps_of_a_vision_transformer_are_in_place():
    "Paint one corner: the tokens of that corner change most"
    pytest.importorskip('timm', reason='timm is not installed')
    torch.manual_seed(0); net = bear_net('vit_tiny_patch16_224', pretrained=False, size=96).eval()
    a = torch.full((1, 3, 96, 96), .5); b = a.clone(); b[..., :16, 80:] = 1
    with torch.no_grad(): change = (net.maps(a) - net.maps(b)).abs().mean(1)[0]
    assert divmod(int(change.argmax()), 6) == (0, 5)


def test_logits_features_and_maps_agree():
    torch.manual_seed(0); net = BearNet(bearnet_small(), 128, 4).eval()
    x = torch.rand(3, 3, 80, 112)
    with torch.no_grad():
        logits, feats, cam = net.outputs(x)
        assert torch.allclose(net(x), logits) and torch.allclose(net.head(net.features(x)), logits)
        assert torch.allclose(cam.mean((2, 3)) + net.head.bias, logits, atol=1e-5)
    assert sum(p.numel() for p in net.parameters()) <= 300_000


@pytest.mark.parametrize('arch, words', [('resnet19', 'there is no body'), ('vit_b_16', 'no maps before its pool')])
def test_bodies_that_do_not_fit_are_refused(arch, words):
    with pytest.raises(DataError, match=words): bear_net(arch, pretrained=False, size=96)


@pytest.mark.parametrize('arch', ['resnet50', 'timm/resnet10t'])
def test_weights_that_cannot_be_fetched_are_explained(tmp_path, arch):
    code = f'from bear_classifier.train import bear_net, DataError\ntry: bear_net({arch!r})\nexcept DataError as e: print("SAID", e)'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | NOWHERE | dict(TORCH_HOME=str(tmp_path), HF_HOME=str(tmp_path)), timeout=120)
    said = [o for o in out.stdout.splitlines() if o.startswith('SAID')]
    assert said and 'could not be fetched' in said[0] and 'pretrained=False' in said[0], out.stderr[-2000:]


# --- features ---

def test_features_are_those_of_the_network(learn):
    paths = learn.heldout.paths[:5]
    x = torch.from_numpy(np.stack([load_square(p, 48) for p in paths])).permute(0, 3, 1, 2)/255
    with torch.no_grad(): want = learn.model.eval().features(x).numpy()
    assert np.allclose(extract_features(learn, paths), want, atol=1e-4)
    with torch.no_grad(): mirrored = learn.model.features(x.flip(-1)).numpy()
    assert np.allclose(extract_features(learn, paths, flip=True), mirrored, atol=1e-4)


def test_folding_normalisation_away_changes_nothing():
    torch.manual_seed(0); net = bear_net('mobilenet_v2', pretrained=False, size=64)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .3); m.running_var.uniform_(.5, 2); m.weight.data.uniform_(.5, 1.5)
    net.eval(); x = torch.rand(2, 3, 64, 64)
    with torch.no_grad(): a, b = net.body(x).mean((2, 3)), train._fast_body(net)(x).mean((2, 3))
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * a.abs().max())


def shelves(): return sorted(cache_dir().glob('features/*/*.npz'))


def test_features_are_computed_once_per_content_body_and_size(learn, tmp_path):
    paths = learn.heldout.paths[:4]
    x, files = extract_features(learn, paths), shelves()
    copy = tmp_path/'another name.jpg'; copy.write_bytes(Path(paths[0]).read_bytes())
    assert np.array_equal(extract_features(learn, [copy, *paths[1:]]), x) and shelves() == files
    extract_features(learn, paths, size=64); assert len(shelves()) == len(files) + 1
    other = bear_net('bearnet_small', size=48).eval()
    extract_features(other, paths, size=48); assert len(shelves()) == len(files) + 2
    assert extract_features(learn, paths, cache=False).shape == x.shape and len(shelves()) == len(files) + 2


def test_the_cache_is_what_is_read(tmp_path, learn, monkeypatch):
    monkeypatch.setenv('BEAR_CACHE', str(tmp_path)); paths = learn.heldout.paths[:3]
    extract_features(learn, paths); file, = shelves()
    with np.load(file) as o: sha, x = o['sha256'], o['features']
    np.savez(file, sha256=sha, features=x + 1)
    assert np.allclose(extract_features(learn, paths), x + 1)


@pytest.mark.parametrize('damage', [lambda f: f.write_bytes(f.read_bytes()[:200]), lambda f: f.write_bytes(b''), lambda f: f.write_bytes(pickle.dumps('x')), lambda f: np.savez(f, other=1)])
def test_a_damaged_cache_is_dropped_and_made_again(tmp_path, learn, monkeypatch, damage):
    monkeypatch.setenv('BEAR_CACHE', str(tmp_path)); paths = learn.heldout.paths[:3]
    x = extract_features(learn, paths); damage(shelves()[0])
    assert np.allclose(extract_features(learn, paths), x, atol=1e-5) and len(shelves()) == 1


def test_the_cache_does_not_grow_without_bound(tmp_path, learn, monkeypatch):
    monkeypatch.setenv('BEAR_CACHE', str(tmp_path)); monkeypatch.setenv('BEAR_CACHE_MB', '.02')
    for i in range(12): extract_features(learn, learn.heldout.paths[i:i+8], size=32 + 16*(i % 6))
    assert trim_cache() <= .02 and 0 < len(shelves()) < 12
    assert trim_cache(0) == 0 and not shelves()


def test_a_file_that_does_not_open_is_named(learn, tmp_path):
    bad = tmp_path/'bad.jpg'; bad.write_text('hello')
    with pytest.raises(ImageError, match='bad.jpg: this is text'): extract_features(learn, [*learn.heldout.paths[:2], bad])


# --- the probe ---

def test_the_network_gives_the_logits_of_the_probe(learn):
    got = torch.cat([learn.model.eval()(x) for x,_ in learn.dls.valid]).detach().numpy()
    valid = np.array(learn.heldout.parts) == 'valid'
    assert np.allclose(got, learn.heldout.logits[valid], atol=1e-3)
    assert [str(o) for o in learn.dls.valid_ds.items.path] == list(np.array(learn.heldout.paths)[valid])
    with learn.no_bar(): acc = learn.validate()[1]
    assert acc == pytest.approx(learn.heldout.accuracy('valid')[0])


def test_the_head_is_the_best_there_is():
    "At the solution the gradient of the regularised loss vanishes"
    rng = np.random.default_rng(0); x = rng.normal(2, 3, (90, 200)); y = np.repeat([0, 1, 2], [50, 30, 10]); x[np.arange(90), y] += 4
    w,b = (torch.tensor(o, requires_grad=True) for o in train._heads(x, y, 3, [10.])[0])
    mean, std = train._standardise(x)
    weight = torch.tensor((len(y)/3/np.bincount(y))[y])
    loss = (torch.nn.functional.cross_entropy(torch.tensor(x) @ w.T + b, torch.tensor(y), reduction='none')*weight).sum() + ((w*torch.tensor(std))**2).sum()/2/10.
    loss.backward()
    assert (w.grad/torch.tensor(std)).abs().max() < 2e-2 and b.grad.abs().max() < 2e-2


@pytest.mark.parametrize('n', [2, 5])
def test_other_numbers_of_classes(n):
    rng = np.random.default_rng(0); y = np.arange(60) % n; x = rng.normal(0, 1, (60, 30)); x[np.arange(60), y] += 6
    w,b = train._heads(x, y, n, [100.])[0]
    assert w.shape == (n, 30) and ((x @ w.T + b).argmax(1) == y).all()
    if n == 2:
        from sklearn.linear_model import LogisticRegression
        mean, std = train._standardise(x)
        m = LogisticRegression(C=100., class_weight='balanced', tol=1e-8, max_iter=5000).fit((x-mean)/std, y)
        assert np.allclose(softmax(x @ w.T + b), m.predict_proba((x-mean)/std), atol=1e-3)


def test_held_out_logits_have_not_seen_their_image():
    "Labels of chance can be learned by heart, not predicted; nor can copies help where groups are respected"
    rng = np.random.default_rng(1); x, y, n = rng.normal(0, 1, (150, 400)), rng.integers(0, 3, 150), 3
    w,b = train._heads(x, y, n, [1e4])[0]
    assert ((x @ w.T + b).argmax(1) == y).mean() == 1
    twice, labels, groups = np.concatenate([x, x + .01]), np.tile(y, 2), np.tile(np.arange(150), 2)
    honest = train._cross_validate(twice, labels, n, train._folds(labels, groups, 5, 0), [1e4])[0].argmax(1) == labels
    leaky = train._cross_validate(twice, labels, n, train._folds(labels, np.arange(300), 5, 0), [1e4])[0].argmax(1) == labels
    assert honest.mean() < .5 and leaky.mean() > .7


def test_every_head_of_a_cross_validation_sees_every_class():
    "Also where a picture lies under two classes, and its group holds both"
    tried = 0
    for i in range(300):
        rng = np.random.default_rng(i)
        groups = rng.integers(0, 9, 14); y = rng.integers(0, 3, 14)
        if min(len(set(groups[y == c])) for c in range(3)) < 2: continue
        try: cut = train._folds(y, groups, 5, 0)
        except DataError as e: assert 'two classes' in str(e); continue
        tried += 1
        assert all(set(y[fit]) == {0, 1, 2} and not set(groups[fit]) & set(groups[rest]) for fit,rest in cut)
        assert sorted(np.concatenate([rest for _,rest in cut])) == list(range(14))
    assert tried > 50


def test_looking_is_not_training(dls):
    "Showing results leaves a line in fastai's recorder, and training afterwards makes what was held out untrue"
    a = probe(seeded(dls))
    with a.no_bar(): a.validate(); a.get_preds(ds_idx=1)
    assert not probe(a).heldout.seen and len(honest_rows(a)) == len(a.heldout.targets)
    with a.no_bar(), a.no_logging(): a.fit(1, 1e-3)
    with pytest.raises(DataError, match='probe'): honest_rows(a)
    assert probe(a).heldout.seen and {a.heldout.parts[i] for i in honest_rows(a)} == {'valid'}


def test_the_strongest_penalty_within_an_error_of_the_best_wins():
    y = np.arange(99) % 3
    sure = np.eye(3)[y]*4
    sure[:3] = sure[[1, 2, 0]]  # three are wrong, so that losses vary
    assert train._strongest(np.stack([sure*0, sure*.9, sure*.8]), y) == 1 and train._strongest(np.stack([sure*.8, sure*.9, sure*.85]), y) == 0
    assert train._strongest(np.stack([sure*0, sure*.1, sure*.8]), y) == 2


def test_held_out_covers_train_and_valid_in_order(learn, dls):
    df = dls.bears.df[dls.bears.df.part != 'test']; h = learn.heldout
    assert h.paths == df.path.tolist() and h.parts == df.part.tolist() and h.logits.dtype == h.features.dtype == np.float32
    assert [dls.vocab[t] for t in h.targets] == df.label.tolist() and h.logits.shape == (len(df), 3) and len(learn.reference) == len(df)
    acc, low, high, n = h.accuracy('valid'); assert low <= acc <= high and n == h.parts.count('valid') and h.accuracy()[3] == len(df)


def test_refitting_uses_valid_but_reports_what_came_before(dls, learn):
    again = probe(seeded(dls), refit=True)
    assert np.allclose(again.heldout.logits, learn.heldout.logits) and not np.allclose(head(again)[0], head(learn)[0])
    assert again.refitted and not learn.refitted
    with pytest.raises(DataError, match='has not seen the validation part'): fine_tune_from_probe(again)


def test_mirror_images_are_fitted_too(dls, learn):
    flipped = probe(seeded(dls), flip=True)
    assert flipped.heldout.logits.shape == learn.heldout.logits.shape and not np.allclose(head(flipped)[0], head(learn)[0])


def test_a_rare_class_is_not_forgotten():
    rng = np.random.default_rng(0); y = np.r_[np.zeros(200), np.ones(8)].astype(int); x = rng.normal(0, 1, (208, 2)); x[y == 1] += 1.5
    w,b = train._heads(x, y, 2, [1e3])[0]
    assert ((x @ w.T + b).argmax(1) == y)[y == 1].mean() > .6


def test_too_few_images_are_refused(bears):
    df = split(dataset(bears)); few = df[(df.label != 'teddy') | (df.part != 'train')]
    few = pd.concat([few, df[(df.label == 'teddy') & (df.part == 'train')].iloc[:1]], ignore_index=True)
    with pytest.raises(DataError, match='only one image'): probe(seeded(bear_dls(few, size=48)))


def test_the_test_part_is_untouched_by_all_that_is_fitted(bears, dls, learn):
    "Poison the labels of the test part, or its images: every weight, logit and choice stays"
    df = dls.bears.df; test = (df.part == 'test').values
    poisoned = df.assign(label=np.where(test, np.roll(df.label, 5), df.label), path=np.where(test, 'missing.jpg', df.path))
    assert (poisoned.label != df.label).sum() >= 3
    a, b = learn, probe(seeded(bear_dls(poisoned, size=48, bs=8)))
    assert all(np.array_equal(*o) for o in zip(head(a), head(b))) and np.array_equal(a.heldout.logits, b.heldout.logits)
    assert a.penalty == b.penalty and np.array_equal(a.reference, b.reference)
    assert learning_curve(a, (5, None), 1).equals(learning_curve(b, (5, None), 1))


def test_the_curve_climbs_and_draws(learn):
    import matplotlib; matplotlib.use('Agg')
    curve = learning_curve(learn, (2, 5, None), repeats=2)
    assert (curve.low <= curve.accuracy).all() and (curve.accuracy <= curve.high).all() and curve.per_class.is_monotonic_increasing
    assert plot_learning_curve(curve).get_xlabel() == 'photos a class'


# --- a fastai learner ---

def test_everything_of_fastai_works_on_it(learn, dls, tmp_path):
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    with learn.no_bar():
        learn.show_results(max_n=4)
        interp = ClassificationInterpretation.from_learner(learn)
        interp.plot_confusion_matrix(); interp.plot_top_losses(3); plt.close('all')
        path = dls.valid_ds.items.path.iloc[0]
        first = learn.predict(path)
        assert interp.confusion_matrix().sum() == len(dls.valid_ds) and first[0] in dls.vocab
        for o in (Path(path), Path(path).read_bytes()): assert torch.equal(learn.predict(o)[2], first[2])
    i = learn.heldout.paths.index(path)
    assert np.allclose(first[2], softmax(learn.heldout.logits[i]), atol=1e-4)
    assert type(learn) is Learner and len(learn.opt_func(learn.splitter(learn.model), lr=1e-3).param_lists) == 3


def test_an_exported_learner_predicts_in_a_fresh_process(learn, dls, tmp_path):
    path = dls.valid_ds.items.path.iloc[0]
    was, learn.path = learn.path, tmp_path
    learn.export('l.pkl'); learn.path = was
    code = f'from fastai.vision.all import load_learner\nl = load_learner({str(tmp_path/"l.pkl")!r})\nwith l.no_bar(): print("P", *l.predict({path!r})[2].tolist())'
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    got = next(o for o in out.stdout.splitlines() if 'P ' in o).split('P ')[1].split()
    with learn.no_bar(): assert np.allclose([float(o) for o in got], learn.predict(path)[2], atol=1e-5), out.stderr[-2000:]


def test_a_pretrained_body_is_frozen_until_asked(dls):
    learn = bear_learner(dls, 'bearnet_small'); assert all(p.requires_grad for p in learn.model.parameters())
    body, late, top = learn.splitter(learn.model)
    assert sum(map(len, (body, late, top))) == len(list(learn.model.parameters())) and len(top) == 2


# --- fine-tuning ---

@pytest.fixture
def varied(bears): return bear_dls(bears, size=48, bs=8, item_tfms=[RandomView(), Square(48)])


def errors(learn):
    with learn.no_bar(): return 1 - learn.validate()[1]


def wrong(learn):
    "Validation images that the learner's own features and head get wrong: what the choice is made by"
    _, y, _, logits, valid = train._head_logits(learn)
    return int((logits[valid].argmax(1) != y[valid]).sum())


def test_fine_tuning_is_never_worse_than_the_probe(varied):
    learn = probe(seeded(varied)); was, weights = errors(learn), head(learn)[0].copy()
    fine_tune_from_probe(learn, epochs=1, lr=10.)  # a rate that ruins any network
    assert learn.how == 'probe' and errors(learn) == was and np.array_equal(head(learn)[0], weights) and 'kept the probe' in learn.story
    again = probe(seeded(varied)); before = wrong(again)
    fine_tune_from_probe(again, epochs=3, lr=5e-3)
    assert wrong(again) <= before
    assert set(again.heldout.parts) == ({'valid'} if again.how == 'finetune' else {'train', 'valid'})


def test_statistics_of_batch_normalisation_stay(varied):
    learn = probe(seeded(varied)); stats = {k: v.clone() for k,v in learn.model.state_dict().items() if 'running' in k}
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=train.KeepStatistics())
    assert stats and all(torch.equal(v, learn.model.state_dict()[k]) for k,v in stats.items())


KILLED = '''
import os, sys, torch
from fastai.vision.all import Callback
from bear_classifier.data import RandomView, Square, bear_dls
from bear_classifier.train import bear_learner, fine_tune_from_probe, probe
torch.set_num_threads(1); torch.manual_seed(0)
class Watch(Callback):
    order = 90
    def before_batch(self):
        if self.training: print('EPOCH', self.epoch, flush=True)
    def after_epoch(self):
        if self.epoch == int(sys.argv[3]): os._exit(9)
learn = probe(bear_learner(bear_dls(sys.argv[1], size=48, bs=8, item_tfms=[RandomView(), Square(48)]), 'bearnet_small', cbs=Watch()))
fine_tune_from_probe(learn, epochs=3, lr=1e-3, patience=9, folder=sys.argv[2])
print('DONE', learn.story)
'''

def test_a_killed_run_goes_on_where_it_was(bears, tmp_path):
    def run(at): return subprocess.run([sys.executable, '-W', 'ignore', '-c', KILLED, bears, tmp_path, str(at)], capture_output=True, text=True)
    first = run(1)
    assert first.returncode == 9 and 'EPOCH 1' in first.stdout and len(list(tmp_path.glob('*.pth'))) == 1
    second = run(99)
    assert second.returncode == 0 and 'DONE' in second.stdout, second.stderr[-2000:]
    assert 'EPOCH 2' in second.stdout and 'EPOCH 0' not in second.stdout and 'EPOCH 1' not in second.stdout
    assert not list(tmp_path.iterdir())


def test_a_run_on_another_split_is_not_gone_on_with(bears, tmp_path):
    "Its weights have seen images that are to judge now"
    files = {train._run_file(probe(seeded(bear_dls(bears, size=size, bs=8, seed=seed))), tmp_path, 3) for seed in (1, 2) for size in (48, 64)}
    assert len(files) == 4


def test_a_loss_that_is_no_number_ends_with_the_probe(varied):
    learn = probe(seeded(varied)); weights = head(learn)[0].copy()
    fine_tune_from_probe(learn, epochs=2, lr=float('nan'))
    assert learn.how == 'probe' and np.array_equal(head(learn)[0], weights) and len(honest_rows(learn)) == len(learn.heldout.targets)


def test_it_stops_when_nothing_gets_better(varied, tmp_path):
    learn = probe(seeded(varied)); seen = []
    class Count(Callback):
        def before_train(self): seen.append(self.epoch)
    learn.add_cb(Count()); fine_tune_from_probe(learn, epochs=8, lr=0., patience=2)
    assert len(seen) == 3 and learn.how == 'probe'


# --- in one call ---

def test_the_same_seed_gives_the_same_model(bears):
    a, b, c = (train_model(bears, 'bearnet_small', size=48, epochs=2, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(*o) for o in zip(a.model.state_dict().values(), b.model.state_dict().values()))
    assert not all(torch.equal(*o) for o in zip(a.model.state_dict().values(), c.model.state_dict().values()))
    assert a.refitted and a.how == 'probe' and 'the body was trained on train' in a.heldout.how


def test_both_methods_and_no_other(bears):
    learn = train_model(bears, 'bearnet_small', 'finetune', size=48, epochs=1)
    assert learn.how in ('probe', 'finetune') and learn.story and learn.refitted == (learn.how == 'probe')
    with pytest.raises(DataError, match='no method'): train_model(bears, method='magic')


@needs_weights
def test_real_photographs_are_told_apart():
    learn = train_model(PHOTOS/'bears')
    assert learn.heldout.accuracy('valid')[0] >= .95 and learn.heldout.accuracy()[0] >= .95
    df = learn.dls.bears.df; test = df[df.part == 'test']
    w,b = head(learn)
    right = (extract_features(learn, test.path) @ w.T + b).argmax(1) == test.label.map(list(learn.dls.vocab).index).values
    assert right.mean() >= .93


@needs_weights
def test_any_shape_of_head_gives_way():
    "SqueezeNet ends in a convolution: its body works all the same"
    learn = train_model(PHOTOS/'bears', 'squeezenet1_0', size=160)
    assert learn.heldout.accuracy()[0] >= .9 and learn.model.head.in_features == 512


@pytest.mark.skipif('BEAR_LONG' not in os.environ, reason='BEAR_LONG=1 asks for proofs that take minutes')
@needs_weights
def test_fine_tuning_on_photographs_is_no_worse():
    learn = train_model(PHOTOS/'bears', method='finetune', epochs=2, refit=False)
    assert learn.how in ('probe', 'finetune') and learn.heldout.accuracy('valid')[0] >= .95
