"Drawn bears: the same bytes for the same seed, every kind and pose, boxes that hold the bear, variety"
import subprocess, sys
import numpy as np
import pytest
from PIL import Image
from bear_classifier import practice
from bear_classifier.core import CLASSES, DataError, open_image
from bear_classifier.practice import (BACKGROUNDS, LIGHTS, OCCLUDERS, OUTSIDERS, POSES, WEATHERS, contact_sheet, draw_bear,
                                      draw_outsider, draw_scene, practice_dataset, practice_outsiders)

def names(folder): return {str(p.relative_to(folder)) for p in folder.rglob('*.jpg')}

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('practice')/'bears', 6, 96)

def test_layout_and_content(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted(CLASSES)
    assert len(names(folder)) == 6*len(CLASSES)
    for p in folder.rglob('*.jpg'):
        assert len(p.stem) == 16 and open_image(p).size == (96, 96)

def test_a_larger_set_holds_the_smaller(folder, tmp_path):
    assert names(folder) < names(practice_dataset(tmp_path/'more', 8, 96))
    alone = practice_dataset(tmp_path/'alone', 6, 96, classes=('teddy',))
    assert names(alone) == {n for n in names(folder) if n.startswith('teddy')}

def test_another_process_draws_the_same_bytes(folder, tmp_path):
    code = 'import sys; from bear_classifier.practice import practice_dataset; practice_dataset(sys.argv[1], 6, 96)'
    subprocess.run([sys.executable, '-c', code, str(tmp_path/'again')], check=True)
    assert names(tmp_path/'again') == names(folder)

def test_another_seed_draws_others(folder, tmp_path):
    assert not names(folder) & names(practice_dataset(tmp_path/'other', 6, 96, seed=1))

def test_drawing_twice_into_a_folder_adds_nothing(tmp_path):
    for _ in range(2): practice_dataset(tmp_path, 2, 64)
    assert len(names(tmp_path)) == 2*len(CLASSES)

def test_outsiders(tmp_path):
    few, more = practice_outsiders(tmp_path/'few', 13, 64), practice_outsiders(tmp_path/'more', 30, 64)
    assert len(names(few)) == 13 and names(few) < names(more)
    assert {p.name for p in more.iterdir()} == set(OUTSIDERS)

@pytest.mark.parametrize('size', [32, 97, 256])
@pytest.mark.parametrize('kind', [*CLASSES, *OUTSIDERS])
def test_every_kind_in_every_pose_and_place(kind, size):
    for i,(pose,place) in enumerate((p,b) for p in POSES for b in BACKGROUNDS):
        if size != 32 and i%7: continue
        s = draw_scene(kind, i, size, pose=pose, background=place, light=list(LIGHTS)[i%4], weather=WEATHERS[i%4], occluder=OCCLUDERS[i%4])
        assert s.image.size == (size, size) and s.image.mode == 'RGB' and s.mask.shape == (size, size)
        assert 0 <= s.mask.min() and s.mask.max() <= 1
        if kind == 'empty': assert s.box is None

@pytest.mark.parametrize('kind', CLASSES)
def test_the_box_holds_the_bear(kind):
    for i in range(25):
        s = draw_scene(kind, i, 128)
        x0, y0, x1, y1 = s.box
        assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128
        assert .02 < s.mask.mean() < .95, 'a bear that can be seen, and something around it'

def test_the_mask_is_where_the_bear_is():
    calm = dict(pose='sit', background='plain', light='day', weather='clear', occluder='none')
    s = draw_scene('grizzly', 3, 128, **calm)
    a, m = np.asarray(s.image, float), s.mask > .5
    assert np.abs(a[m].mean(0) - a[~m].mean(0)).max() > 15

def test_a_fixed_trait_leaves_the_others():
    a = draw_scene('black', 8, 64)
    b = draw_scene('black', 8, 64, light='night')
    assert {**a.traits, 'light': 'night'} == b.traits
    assert np.allclose(a.mask, b.mask)

def test_traits_vary():
    seen = [draw_scene('teddy', i, 32).traits for i in range(120)]
    for key,options in dict(pose=POSES, background=BACKGROUNDS, light=LIGHTS, weather=WEATHERS, occluder=OCCLUDERS).items():
        assert {t[key] for t in seen} == set(options)

def test_no_two_alike():
    small = [np.asarray(draw_bear('grizzly', i, 48).resize((12,12)), float).ravel() for i in range(80)]
    gaps = [np.abs(a-b).mean() for i,a in enumerate(small) for b in small[:i]]
    assert min(gaps) > 3

def test_wrong_wishes_are_answered(tmp_path):
    with pytest.raises(DataError, match='polar.*grizzly'): practice_dataset(tmp_path, 1, classes=('polar',))
    with pytest.raises(DataError, match='fog'): draw_scene('teddy', weather='hail')
    with pytest.raises(DataError, match='pose'): draw_scene('teddy', stance='sit')
    with pytest.raises(DataError): contact_sheet([])
    assert not list(tmp_path.iterdir())

def test_sheet_and_outsider_are_images():
    ims = [draw_outsider(k, 1, 64) for k in OUTSIDERS]
    sheet = contact_sheet(ims, cols=5, thumb=32, gap=2)
    assert isinstance(sheet, Image.Image) and sheet.size == (5*34+2, 3*34+2)

def test_chance_may_be_a_generator():
    a, b = draw_bear('teddy', np.random.default_rng(4), 48), draw_bear('teddy', 4, 48)
    assert np.array_equal(np.asarray(a), np.asarray(b))

def test_the_module_is_light():
    code = "import sys, bear_classifier.practice; print([m for m in ('torch','fastai','pandas','matplotlib','sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    assert 'draw_scene' in practice.__all__
