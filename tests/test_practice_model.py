"The model that ships: right on fresh drawings, closed to strangers and to photographs, small, and made by one function"
import os
import numpy as np, pytest
from bear_classifier.core import CLASSES, image_files
from bear_classifier.infer import BearClassifier
from bear_classifier.practice import OUTSIDERS, draw_scene, practice_dataset, practice_squares
from photos import PHOTOS, needs_photos

AWAY = ('unsure', 'out_of_domain')

@pytest.fixture(scope='module')
def clf(): return BearClassifier.practice()

def test_small_enough(clf):
    assert sorted(f.name for f in clf.bundle.path.iterdir()) == ['README.md', 'model.json', 'model.onnx']
    assert sum(f.stat().st_size for f in clf.bundle.path.iterdir()) <= 1.5e6

def test_fresh_drawings(clf):
    x, y = practice_squares(CLASSES, 50, 256, seed=90210)
    said = list(clf.predict_many(list(x)))
    right = [p.verdict == CLASSES[k] for p,k in zip(said, y)]
    assert np.mean(right) >= .94, 'at least 97% on 600; 150 leave room for chance'
    assert np.mean([p.verdict == 'unsure' for p in said]) <= .03

@pytest.mark.skipif(not os.environ.get('BEAR_LONG'), reason='set BEAR_LONG=1 for the long proof on 900 drawings')
def test_fresh_drawings_in_numbers(clf, tmp_path):
    folder = practice_dataset(tmp_path, 300, seed=31337)
    said = [(p.verdict, c) for c in CLASSES for p in clf.predict_many(sorted((folder/c).iterdir()))]
    share = np.mean([a == c for a,c in said])
    print(f'{share:.4f} of {len(said)} fresh drawings named right')
    assert share >= .97

@pytest.mark.parametrize('size', [128, 512])
def test_the_size_of_a_drawing_does_not_matter(clf, size):
    scenes = [draw_scene(k, 4000+i, size) for k in CLASSES for i in range(8 if size > 256 else 16)]
    said = list(clf.predict_many([s.image for s in scenes]))
    assert np.mean([p.verdict == s.kind for p,s in zip(said, scenes)]) >= .85

def test_drawn_strangers_are_turned_away(clf):
    x, _ = practice_squares(tuple(OUTSIDERS), 8, 256, seed=90210)
    assert np.mean([p.verdict in AWAY for p in clf.predict_many(list(x))]) >= .85

def test_blank_images_are_no_bears(clf):
    for v in (0, 128, 255): assert clf.predict(np.full((200,300,3), v, np.uint8)).verdict in AWAY

@needs_photos
def test_photographs_are_turned_away(clf):
    photos = [p for f in ('bears', 'ood') for d in sorted((PHOTOS/f).iterdir()) for p in image_files(d)]
    away = [p.verdict in AWAY for p in clf.predict_many(photos)]
    print(f'{np.mean(away):.3f} of {len(away)} photographs turned away')
    assert np.mean(away) >= .9

@pytest.mark.skipif(not os.environ.get('BEAR_LONG'), reason='set BEAR_LONG=1 to train a quarter of the practice model')
def test_the_recipe_learns(tmp_path):
    pytest.importorskip('fastai', reason='training needs the train extra')
    from bear_classifier.practice_model import practice_bundle
    made = BearClassifier.load(practice_bundle(tmp_path/'made', n=500, n_fresh=100, epochs=10))
    x, y = practice_squares(CLASSES, 40, 256, seed=4)
    assert np.mean([p.label == CLASSES[k] for p,k in zip(made.predict_many(list(x)), y)]) > .8
