"Figures agree with counts by hand and with oracles; nothing fitted has seen the test part; strangers are told on photographs"
import json, os, re, shutil
from pathlib import Path

import pytest

pytest.importorskip('fastai', reason='the train extra is not installed')
import numpy as np
from hypothesis import given, strategies as st
from bear_classifier import calibrate, evaluate
from bear_classifier.core import CLASSES, DataError, domain_score, image_files, load_square, softmax, wilson
from bear_classifier.calibrate import (LearnerClassifier, auroc, compare_scorers, cost_matrix, cross_calibrate, ece, expected_costs, fit_domain, fit_settings,
                                       fit_temperature, fit_unsure, folds, held_out, honest_rows, leave_out_scores, reliability, risk_coverage, small_copy)
from bear_classifier.evaluate import (CORRUPTIONS, bootstrap, confusion, corrupt, evaluate_learner, evaluate_model, mass_inside, overlay_map, per_class, to_html,
                                      top_losses)
from bear_classifier.infer import BearClassifier
from bear_classifier.practice import draw_bear, draw_scene, practice_dataset, practice_outsiders
from photos import PHOTOS, needs_weights

pytestmark = pytest.mark.usefixtures('cache')


@pytest.fixture(scope='module')
def bears(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('data')/'bears', n_per_class=24, size=96, seed=11)


@pytest.fixture(scope='module')
def learn(bears, probed): return probed(bears)


@pytest.fixture(scope='module')
def clf(learn): return LearnerClassifier(learn)


# --- counting ---

@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_confusion_is_a_hand_count(pairs):
    y, p = map(np.array, zip(*pairs))
    m = confusion(y, p, list(CLASSES))
    for i in range(3):
        for j in range(3): assert m.values[i,j] == sum(1 for a,b in pairs if (a,b) == (i,j))
    t = per_class(y, p, list(CLASSES))
    for i,c in enumerate(CLASSES):
        r, n = t.loc[c], (y == i).sum()
        assert r.n == n and (r.recall_low, r.recall_high) == wilson(int(((y == i) & (p == i)).sum()), int(n))


def test_per_class_agrees_with_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    want = precision_recall_fscore_support(y, p)
    got = per_class(y, p, list(CLASSES))
    assert np.allclose(got.precision, want[0]) and np.allclose(got.recall, want[1])


def test_bootstrap_covers_as_often_as_it_says():
    "Of intervals for the share of a coin, about 95% hold the truth"
    rng = np.random.default_rng(1)
    hits = [low <= .8 <= high for _,low,high in (bootstrap(np.mean, rng.random(150) < .8, n=300, seed=i) for i in range(120))]
    assert .88 <= np.mean(hits) <= 1


def test_top_losses_are_the_largest():
    rng = np.random.default_rng(0)
    probs, y = softmax(rng.normal(0, 2, (50, 3))), rng.integers(0, 3, 50)
    t = top_losses(probs, y, [f'{i}.jpg' for i in range(50)], list(CLASSES), 7)
    loss = -np.log(probs[np.arange(50), y])
    assert np.allclose(t.loss, np.sort(loss)[::-1][:7]) and t.path[0] == f'{loss.argmax()}.jpg'
    assert [CLASSES[y[int(p[:-4])]] for p in t.path] == list(t.actual)


# --- calibration ---

@pytest.mark.parametrize('factor', [.25, 1, 4])
def test_the_temperature_that_was_put_in_is_found(factor):
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (5000, 3))
    y = np.array([rng.choice(3, p=p) for p in softmax(z)])
    assert fit_temperature(z*factor, y) == pytest.approx(factor, rel=.1)


def test_a_model_without_faults_is_not_certain():
    z, y = np.eye(3)[np.arange(30) % 3]*9, np.arange(30) % 3
    assert softmax(z, fit_temperature(z, y)).max() < .9999


def test_ece_and_reliability_by_hand():
    probs, y = np.array([[.9, .1]]*10 + [[.6, .4]]*10), np.array([0]*9 + [1] + [0]*3 + [1]*7)
    assert ece(probs, y) == pytest.approx((0 + .3)/2)
    t = reliability(probs, y)
    assert list(t.n) == [10, 10] and list(t.accuracy) == [.3, .9]


def test_cross_calibration_never_uses_an_image_for_itself():
    rng = np.random.default_rng(0)
    z, y, groups = rng.normal(0, 2, (60, 3)), rng.integers(0, 3, 60), np.repeat(np.arange(30), 2)
    for rest,fold in folds(y, groups): assert not set(groups[rest]) & set(groups[fold])
    probs, fold = cross_calibrate(z, y, groups), next(folds(y, groups))[1]
    wild = z.copy(); wild[fold[0]] *= 30
    again = cross_calibrate(wild, y, groups)
    rest = np.setdiff1d(np.arange(60), fold)
    assert np.allclose(again[fold[1:]], probs[fold[1:]]) and not np.allclose(again[rest], probs[rest])


# --- strangers ---

def test_an_image_is_not_its_own_neighbour():
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(0, 1, (40, 8))); x[20:] = x[:20] + 1e-6    # each photo twice
    groups = np.tile(np.arange(20), 2)
    near = leave_out_scores(x, groups, x, groups, 1)
    alone = leave_out_scores(x, np.arange(40), x, np.arange(40), 1)
    assert (alone < 1e-6).all() and (near > 1e-4).all()
    by_hand = [domain_score(x[i:i+1], x[groups != groups[i]], 1)[0] for i in range(40)]
    assert np.allclose(near, by_hand, atol=1e-5)


def test_the_threshold_turns_away_what_it_says():
    rng = np.random.default_rng(0)
    x, new = (np.abs(rng.normal(1, .5, (n, 16))) for n in (400, 4000))
    dom = fit_domain(x, np.arange(400), x, np.arange(400), turn_away=.1)
    assert dom['n'] == 400 and abs((domain_score(new, dom['reference']) > dom['stranger_above']).mean() - .1) < .04


def test_the_reference_is_limited_and_seeded():
    x = np.random.default_rng(0).random((300, 4))
    a, b = (fit_domain(x, np.arange(300), x, np.arange(300), limit=100) for _ in range(2))
    assert a['reference'].shape == (100, 4) and a['reference'].dtype == np.float16 and (a['reference'] == b['reference']).all()


def test_every_scorer_tells_what_is_far_from_what_is_near():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    feats = rng.normal(0, .3, (150, 10)) + 3*np.eye(10)[y]; out = rng.normal(0, .3, (80, 10)) - 2*np.eye(10)[5]
    t = compare_scorers(feats, feats[:, :3]*2, y, out, out[:, :3]*2)
    assert set(t.index) == {'neighbours', 'mahalanobis', 'energy', 'softmax'} and (t.auroc > .95).all()
    assert (t.accepted_low <= t.accepted + 1e-9).all() and (t.accepted <= t.accepted_high + 1e-9).all()


# --- not sure ---

@pytest.mark.parametrize('error,want', [(2, .5), (5, .8), (20, .95)])
def test_one_cost_gives_the_threshold_of_theory(error, want):
    probs = softmax(np.random.default_rng(0).normal(0, 2.5, (20_000, 3)))
    assert fit_unsure(probs, cost_matrix(CLASSES, error)) == pytest.approx(want, abs=.02)


def test_expected_costs_are_the_costs_that_come():
    "On calibrated probabilities, what is expected is what happens"
    rng = np.random.default_rng(0)
    probs = softmax(rng.normal(0, 1.5, (20_000, 3)))
    y = np.array([rng.choice(3, p=p) for p in probs])
    costs = cost_matrix(CLASSES, 5, {('grizzly', 'teddy'): 50})
    for t,want in zip((.4, .7, .9), expected_costs(probs, costs, (.4, .7, .9))):
        on = probs.max(1) >= t
        assert np.where(on, costs[y, probs.argmax(1)], 1.).mean() == pytest.approx(want, rel=.06)


def test_a_dearer_mistake_makes_it_warier():
    probs = softmax(np.random.default_rng(0).normal(0, 2, (5000, 3)))
    assert fit_unsure(probs, cost_matrix(CLASSES, 5, {('grizzly', 'teddy'): 80})) > fit_unsure(probs, cost_matrix(CLASSES, 5))


def test_risk_coverage_ends_at_all_images():
    rng = np.random.default_rng(0)
    probs, y = softmax(rng.normal(0, 1, (80, 3))), rng.integers(0, 3, 80)
    t = risk_coverage(probs, y)
    assert t.coverage.iloc[0] == 1 and t.risk.iloc[0] == pytest.approx((probs.argmax(1) != y).mean()) and t.coverage.is_monotonic_decreasing


# --- damage, maps, slices ---

@pytest.mark.parametrize('kind', CORRUPTIONS)
def test_corruptions_are_repeatable_images(kind):
    im = draw_bear('teddy', 3, 96)
    a, b = corrupt(im, kind, 1), corrupt(im, kind, 1)
    assert a.mode == 'RGB' and a.tobytes() == b.tobytes() and (kind == 'as it is') == (a.tobytes() == im.tobytes())


def test_a_small_copy_stays_the_same_picture():
    x = load_square(draw_bear('black', 5, 128), 96)
    y = small_copy(x, np.random.default_rng(0))
    assert y.shape == x.shape and y.dtype == np.uint8 and 0 < np.abs(x.astype(int) - y).mean() < 25


def test_an_overlay_keeps_size_and_where_the_map_is_empty_the_image():
    im = draw_bear('grizzly', 1, 64)
    assert overlay_map(im, np.zeros((4, 4))).tobytes() == im.tobytes()
    assert overlay_map(im, np.eye(4)).size == im.size


def test_the_map_lies_on_the_bear():
    "The practice model: most of the evidence is in the box around the bear, and more than a blind map would have there"
    clf = BearClassifier.practice()
    scenes = [draw_scene(k, 7000+i, 128, occluder='none', weather='clear') for k in CLASSES for i in range(12)]
    found = [mass_inside(p.cam, s.mask) for p,s in zip(clf.predict_many([s.image for s in scenes]), scenes)]
    mass, area = np.mean(found, 0)
    assert mass > .5 and mass > area + .05, (mass, area)


# --- a learner, end to end ---

def test_only_the_validation_part_is_honest_where_the_body_was_trained(bears):
    from bear_classifier.data import bear_dls
    from bear_classifier.train import bear_learner, probe
    learn = bear_learner(bear_dls(bears, size=48, bs=8), 'bearnet_small')
    n = len(probe(learn).heldout.targets)
    assert len(honest_rows(learn)) == n
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    probe(learn)
    assert {learn.heldout.parts[i] for i in honest_rows(learn)} == {'valid'} and len(honest_rows(learn)) < n


def test_the_test_part_is_touched_by_nothing_that_is_fitted(bears, probed):
    "Poison its labels before training: nothing but the final report changes"
    from bear_classifier.data import dataset, split
    df = split(dataset(bears))
    bad = df.copy(); at = bad.part == 'test'
    bad.loc[at, 'label'] = [CLASSES[(CLASSES.index(o)+1) % 3] for o in bad.label[at]]
    a, b = probed(df), probed(bad)
    sa, sb = fit_settings(a), fit_settings(b)
    assert (a.model.head.weight == b.model.head.weight).all() and sa['temperature'] == sb['temperature'] and sa['thresholds'] == sb['thresholds']
    assert (sa['domain']['reference'] == sb['domain']['reference']).all()
    fa, fb = evaluate_learner(a, sa), evaluate_learner(b, sb)
    ta, tb = fa.pop('test'), fb.pop('test')
    assert fa == fb and ta != tb


def test_a_classifier_from_a_learner_answers_in_order_and_names_bad_files(clf, bears, tmp_path):
    (tmp_path/'odd.jpg').write_text('hello')
    files = [*image_files(bears)[:40], tmp_path/'odd.jpg']
    said = list(clf.predict_many(files, batch_size=7))
    assert [p.path for p in said] == [str(o) for o in files] and said[-1].error and all(p.ok for p in said[:-1])
    assert all(0 <= p.cam.min() and p.cam.max() <= 1 for p in said[:-1])


def test_the_report_is_whole_and_alone(clf, bears, tmp_path):
    outsiders = practice_outsiders(tmp_path/'out', n=12, size=64)
    report = evaluate_model(clf, bears, out=tmp_path/'report', outsiders=outsiders)
    f = json.loads((tmp_path/'report'/'report.json').read_text(encoding='utf-8'))
    page = (tmp_path/'report'/'report.html').read_text(encoding='utf-8')
    assert f == report.figures and 'accuracy' in str(report)
    assert {'accuracy', 'per_class', 'confusion', 'ece', 'verdicts', 'coverage', 'risk', 'slices', 'corruptions', 'outsiders', 'top_losses', 'risk_coverage'} <= set(f)
    assert sum(map(sum, f['confusion'])) == f['accuracy']['n'] == sum(f['verdicts'].values())
    assert len(f['corruptions']) == len(CORRUPTIONS) and f['corruptions'][0]['accuracy'] == f['accuracy']['value']
    assert not re.search(r'(src|href)="(?!data:|#)', page) and '<script' not in page and 'url(http' not in page


def test_the_page_escapes_what_people_name(clf, bears, tmp_path):
    report = evaluate_model(clf, bears, corruptions=False)
    report.figures['dataset']['name'] = '<script>alert(1)</script>'
    report.figures['dataset']['unreadable'] = [dict(file='<img onerror=x>.jpg', reason='<b>')]
    assert '<script' not in to_html(report) and '<img onerror' not in to_html(report)


def test_a_model_is_judged_by_its_test_part_and_others_by_all(learn, clf, bears, tmp_path):
    "`auto` takes the test part of the dataset that the model was trained on, and every image of another"
    test = learn.dls.bears.df.query("part == 'test'")
    assert evaluate_model(clf, bears, corruptions=False).figures['accuracy']['n'] == len(test)
    other = practice_dataset(tmp_path/'others', n_per_class=4, size=64, seed=5)
    assert evaluate_model(clf, other, corruptions=False).figures['accuracy']['n'] == 12


@pytest.mark.parametrize('cut', [dict(), dict(test_pct=.3), dict(seed=7), dict(valid_pct=.4, test_pct=.05, seed=3)])
def test_the_test_part_is_known_again_wherever_the_folder_is(bears, probed, tmp_path, cut):
    "Whatever the split was: in a moved and renamed folder that has grown, a bundle and a learner are judged by their own test part, and by nothing they have seen"
    from bear_classifier.data import dataset, split
    from bear_classifier.export import export_bundle
    learn = probed(split(dataset(bears), **cut))
    df = learn.dls.bears.df
    moved = Path(shutil.copytree(bears, tmp_path/'elsewhere'))
    practice_dataset(moved, n_per_class=20, size=64, seed=77)
    want = sorted(df.sha256[df.part == 'test'])
    for model in (LearnerClassifier(learn), BearClassifier.load(export_bundle(learn, tmp_path/'model'))):
        got, how = evaluate._images(model, moved, 'auto', None)
        assert sorted(got.sha256) == want and how.startswith('test part')
        assert len(evaluate._images(model, moved, 'all', None)[0]) > len(df)
    other = practice_dataset(tmp_path/'other'/bears.name, n_per_class=4, size=64, seed=6)  # of the same name, and nothing else
    assert evaluate._images(model, other, 'auto', None)[1] == 'all images'
    with pytest.raises(DataError, match='part="test"'): evaluate._images(model, moved, 'train', None)


def test_outsiders_that_do_not_open_are_counted_or_named(clf, bears, tmp_path):
    (tmp_path/'odd').mkdir(); (tmp_path/'odd'/'a.jpg').write_text('hello')
    with pytest.raises(DataError, match='can be opened'): evaluate_model(clf, bears, outsiders=tmp_path/'odd', corruptions=False)
    practice_outsiders(tmp_path/'odd', n=3, size=64)
    f = evaluate_model(clf, bears, outsiders=tmp_path/'odd', corruptions=False).figures['outsiders']
    assert (f['n'], f['unreadable']) == (3, 1)


def test_a_folder_that_the_model_does_not_know_is_named(clf, bears, tmp_path):
    path = practice_dataset(tmp_path/'more', n_per_class=3, size=64)
    (path/'panda').mkdir(); draw_bear('black', 77, 64).save(path/'panda'/'a.png')
    with pytest.raises(DataError, match='panda'): evaluate_model(clf, path)


def test_the_page_reads_well_in_a_browser(clf, bears, tmp_path):
    "Opened in light and dark: nothing is wider than the window, every picture has loaded, nothing is asked of the network"
    sync_api = pytest.importorskip('playwright.sync_api', reason='the dev extra is not installed')
    chromium = next((o for o in ('/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome') if os.access(o, os.X_OK)), None)
    if chromium is None: pytest.skip('no Chromium here to open the page with')
    evaluate_model(clf, bears, out=tmp_path)
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run'])
        for scheme,width in (('light', 1000), ('dark', 420)):
            page, asked = browser.new_page(viewport=dict(width=width, height=800), color_scheme=scheme), []
            page.on('request', lambda r: asked.append(r.url))
            page.goto((tmp_path/'report.html').as_uri())
            assert page.evaluate('document.documentElement.scrollWidth') <= width
            assert page.evaluate('[...document.images].every(o => o.complete && o.naturalWidth > 0)') and page.locator('svg').count() == 4
            assert all(u.startswith(('file:', 'data:')) for u in asked)
            ink, paper = page.evaluate("[getComputedStyle(document.querySelector('h1')).color, getComputedStyle(document.body).backgroundColor]")
            light = lambda c: sum(map(int, re.findall(r'\d+', c)[:3]))/765
            assert abs(light(ink) - light(paper)) > .6
        browser.close()


# --- photographs ---

@pytest.fixture(scope='module')
def real():
    from bear_classifier.export import graph_bytes, onnx_session, run_graph
    from bear_classifier.train import train_model
    learn = train_model(PHOTOS/'bears')
    session = onnx_session(graph_bytes(learn.model, 224))   # the runtime is several times as fast as torch here
    learn.run_fast = lambda x: run_graph(session, x)
    return learn


@needs_weights
def test_on_photographs_it_is_right_honest_and_knows_strangers(real):
    "Accuracy, calibration and strangers, all on images that nothing was fitted on; strangers are never used to fit"
    s = fit_settings(real, run=real.run_fast)
    f = evaluate_learner(real, s, real.run_fast)
    print({k: f[k] for k in ('accuracy', 'ece')}, f['test']['accuracy'])
    assert f['accuracy']['value'] >= .95 and f['ece']['after'] <= .04 and f['test']['accuracy']['value'] >= .9
    logits, features, targets, paths = held_out(real)
    groups = calibrate.image_groups(real, paths)
    inside = leave_out_scores(features, groups, s['domain']['reference'], s['domain']['groups'])
    preds = [p for p in LearnerClassifier(real, s, real.run_fast).predict_many(image_files(PHOTOS/'ood')) if p.ok]
    outside = np.array([p.domain_score for p in preds])
    away, accepted = (inside > s['thresholds']['stranger_above']).mean(), (outside <= s['thresholds']['stranger_above']).mean()
    print(f'AUROC {auroc(inside, outside):.3f}, {accepted:.3f} of {len(outside)} outsiders accepted, {away:.3f} of bears turned away')
    assert away <= .055 and auroc(inside, outside) >= .97 and accepted <= .12


@needs_weights
def test_on_photographs_distances_beat_logits(real):
    "The table from which the scorer was chosen"
    logits, features, targets, paths = held_out(real)
    out = np.stack([load_square(o) for o in image_files(PHOTOS/'ood')])
    z, x, _ = real.run_fast(out)
    t = compare_scorers(features, logits, targets, x, z, calibrate.image_groups(real, paths))
    print(t.round(3).to_string())
    assert t.auroc['neighbours'] >= .97 and t.auroc['neighbours'] > t.auroc[['energy', 'softmax']].max()
    assert t.auroc['neighbours'] > t.auroc['mahalanobis'] - .01
