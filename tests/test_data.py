"A dataset has a version, a split that does not leak or drift, and batches that look like production"
import random, shutil, warnings
from pathlib import Path

import pytest

pytest.importorskip('fastai', reason='the train extra is not installed')
import numpy as np, pandas as pd
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from bear_classifier.core import DataError, append_line, load_square, open_image, sha256_of
from bear_classifier.data import (RandomView, Square, bear_dls, cache_dir, dataset, dataset_diff, dataset_version, read_split,
                                  resize_gallery, augment_gallery, split, write_split)
from bear_classifier.practice import practice_dataset
from photos import PHOTOS, needs_photos


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
    "The cache of these tests alone"
    with pytest.MonkeyPatch.context() as m:
        m.setenv('BEAR_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='module')
def bears(tmp_path_factory): return practice_dataset(tmp_path_factory.mktemp('data')/'bears', n_per_class=14, size=96)


def table(n, seed=0, copies=0):
    "A made-up dataset: hashes of chance, and copies that differ in two bits"
    rng = random.Random(seed)
    rows = [(rng.choice('abc'), rng.getrandbits(64)) for _ in range(n)]
    rows += [(l, h ^ 1 ^ (1 << 40)) for l,h in rows[:copies]]
    return pd.DataFrame([dict(path=f'{l}/{i}', label=l, sha256=f'{rng.getrandbits(256):064x}', phash=h) for i,(l,h) in enumerate(rows)])


def same_side(a, b):
    both = a.merge(b, on='sha256')
    assert len(both) and (both.part_x == both.part_y).all()


def test_a_folder_becomes_a_table(bears):
    df = dataset(bears)
    assert len(df) == 42 and set(df.label) == {'black', 'grizzly', 'teddy'}
    assert (df.sha256 == [sha256_of(p) for p in df.path]).all() and all(Path(p).is_absolute() for p in df.path)
    assert df.attrs['root'] == str(bears.resolve()) and df.attrs['left_out'] == {}


def test_hidden_and_loose_files_are_no_images(bears, tmp_path):
    root = shutil.copytree(bears, tmp_path/'b')
    (root/'.trash').mkdir(); first = dataset(root).path[0]
    shutil.copy(first, root/'.trash'/'x.jpg'); shutil.copy(first, root/'loose.jpg'); (root/'teddy'/'notes.txt').write_text('hello')
    assert len(dataset(root)) == 42
    deep = root/'teddy'/'sub'; deep.mkdir(); shutil.move(first, deep/'y.jpg')
    assert dict(dataset(root).label.value_counts()) == {'black': 13, 'grizzly': 14, 'teddy': 15}


def test_what_does_not_open_is_left_out_and_named(bears, tmp_path):
    root = shutil.copytree(bears, tmp_path/'b')
    (root/'black'/'empty.jpg').write_bytes(b''); (root/'black'/'page.jpg').write_text('<!doctype html><html>')
    for _ in range(2):
        with pytest.warns(UserWarning, match='left out 2 of 44 files.*empty'): df = dataset(root)
        assert len(df) == 42 and len(df.attrs['left_out']) == 2
    shutil.copy(df.path[3], root/'black'/'empty.jpg')
    with pytest.warns(UserWarning, match='left out 1 of 44'): assert len(dataset(root)) == 43


@pytest.mark.parametrize('make, words', [(lambda p: None, 'no folder'), (lambda p: p.mkdir(), 'no images'), (lambda p: ((p/'a').mkdir(parents=True), (p/'a'/'x.jpg').write_text('hi')), 'opens as an image')])
def test_nothing_to_work_with_is_said(tmp_path, make, words):
    make(tmp_path/'d')
    with warnings.catch_warnings(), pytest.raises(DataError, match=words): warnings.simplefilter('ignore'); dataset(tmp_path/'d')


def test_the_manifest_is_joined_and_its_last_line_counts(bears, tmp_path):
    root = shutil.copytree(bears, tmp_path/'b'); df = dataset(root)
    for url in ('http://a', 'http://b'): append_line(root/'manifest.jsonl', dict(path='x', sha256=df.sha256[0], url=url, status='kept'))
    (root/'manifest.jsonl').open('a').write('{"sha256": "torn')
    got = dataset(root)
    assert got.url[0] == 'http://b' and got.url[1:].isna().all() and got.order[0] == 0


def test_the_version_is_about_content_and_labels(bears, tmp_path):
    root = shutil.copytree(bears, tmp_path/'b'); was, df = dataset_version(root), dataset(root)
    assert len(was) == 12 and was == dataset_version(df) == dataset_version(bears) == dataset_version(df.sample(frac=1, random_state=0))
    Path(df.path[0]).rename(root/'black'/'other.jpeg'); assert dataset_version(root) == was
    (root/'black'/'other.jpeg').rename(root/'grizzly'/'other.jpeg'); assert dataset_version(root) != was
    diff = dataset_diff(df, dataset(root)); assert diff[['change', 'was', 'label']].values.tolist() == [['relabelled', 'black', 'grizzly']]
    (root/'grizzly'/'other.jpeg').unlink(); assert dataset_diff(df, dataset(root)).change.tolist() == ['removed']
    assert dataset_diff(dataset(root), df).change.tolist() == ['added']


@given(*[st.lists(st.tuples(st.sampled_from('abc'), st.sampled_from('12345')), max_size=8)]*2)
def test_versions_differ_where_there_is_a_difference(old, new):
    "Also where a picture lies in a class twice, or under two classes"
    old, new = (pd.DataFrame([dict(label=l, sha256=s) for l,s in o], columns=['label', 'sha256']) for o in (old, new))
    diff = dataset_diff(old, new)
    assert (dataset_version(old) == dataset_version(new)) == (len(diff) == 0)
    assert len(new) - len(old) == (diff.change == 'added').sum() - (diff.change == 'removed').sum()


def test_a_damaged_cache_is_made_again(bears):
    was = dataset(bears)
    (cache_dir()/'looks.json').write_text('{"torn')
    pd.testing.assert_frame_equal(dataset(bears), was)


def test_shares_are_what_was_asked_for():
    part = split(table(4000), valid_pct=.2, test_pct=.15).part.value_counts(normalize=True)
    assert abs(part.valid - .2) < .03 and abs(part.test - .15) < .03


def test_nothing_moves_when_images_come_or_go():
    df = table(500)
    a = split(df)
    same_side(a, split(df.iloc[::3])); same_side(a, split(pd.concat([df, table(700, seed=9)], ignore_index=True)))
    same_side(a, split(df.sample(frac=1, random_state=1)))


def test_the_test_part_depends_on_neither_valid_pct_nor_labels():
    df = table(500); a, b = split(df), split(df.assign(label=np.roll(df.label, 3)), valid_pct=.4)
    assert (a.part == 'test').tolist() == (b.part == 'test').tolist()
    assert (split(df, seed=1).part != a.part).any()


@settings(max_examples=10, deadline=None)
@given(st.integers(60, 160), st.integers(0, 50), st.integers(0, 9))
def test_copies_stay_together(n, copies, seed):
    df = split(table(n, seed, copies), seed=seed)
    assert df.groupby('group').part.nunique().max() == 1
    assert (df.group[:copies].values == df.group[n:n+copies].values).all()


def test_a_copy_follows_the_elder_of_the_manifest():
    df = table(300).assign(order=range(300)); more = table(300, copies=80)
    more['order'] = range(380)
    same_side(split(df), split(more))


def test_a_saved_split_is_kept(tmp_path):
    df, more = table(300), table(300, copies=80)
    a = split(df)
    kept = split(more, keep=read_split(write_split(a, tmp_path/'split.csv')))
    same_side(a, kept); assert kept.groupby('group').part.nunique().max() == 1
    lines = (tmp_path/'split.csv').read_text().splitlines()
    assert len(lines) == 301 and lines[1:] == sorted(lines[1:])
    (tmp_path/'no.csv').write_text('a,b\n1,2\n')
    with pytest.raises(DataError, match='no saved split'): read_split(tmp_path/'no.csv')


def test_where_copies_join_two_parts_the_test_part_wins():
    df = table(200); a = split(df)
    train, test = df[a.part == 'train'].iloc[0], df[a.part == 'test'].iloc[0]
    joined = df.assign(phash=[train.phash if s == test.sha256 else h for s,h in zip(df.sha256, df.phash)])
    part = split(joined, keep=a).set_index('sha256').part
    assert part[train.sha256] == part[test.sha256] == 'test'


@pytest.mark.parametrize('kw, words', [(dict(valid_pct=.6, test_pct=.4), 'under 1'), (dict(valid_pct=0), 'nothing to train'), (dict(test_pct=-.1), 'nothing to train')])
def test_impossible_shares_are_refused(kw, words):
    with pytest.raises(DataError, match=words): split(table(50), **kw)


def test_too_little_is_said_before_training():
    with pytest.raises(DataError, match='one class only'): split(table(50).assign(label='a'))
    with pytest.raises(DataError, match='left to train on|none to validate'): split(table(3))


def test_batches_are_what_production_sees(bears, tmp_path):
    root = shutil.copytree(bears, tmp_path/'b')
    for o in root.rglob('*.jpg'):  # cameras store photos lying down
        im = Image.open(o); exif = im.getexif(); exif[0x0112] = 6
        ImageOps.expand(im, (0, 0, 40, 0)).save(o, exif=exif, quality=95)
    dls = bear_dls(root, size=64, bs=8)
    x = dls.valid.one_batch()[0]
    want = [load_square(p, 64) for p in dls.valid_ds.items.path[:8]]
    assert tuple(x.shape) == (min(8, len(dls.valid_ds)), 3, 64, 64)
    assert np.array_equal((x.permute(0, 2, 3, 1).cpu().numpy()*255).round().astype(np.uint8), np.stack(want))


def test_the_test_part_is_in_no_batch(bears):
    dls = bear_dls(bears, size=48, bs=8)
    df = dls.bears.df
    inside = set(dls.train_ds.items.path) | set(dls.valid_ds.items.path)
    assert inside == set(df.path[df.part != 'test']) and (df.part == 'test').any()
    assert set(dls.valid_ds.items.path) == set(df.path[df.part == 'valid'])
    assert dls.bears.version == dataset_version(bears) and list(dls.vocab) == dls.bears.classes == ['black', 'grizzly', 'teddy'] and dls.bears.size == 48


def test_every_kind_of_source_gives_the_same_pixels(bears):
    dls = bear_dls(bears, size=48)
    path = dls.valid_ds.items.path.iloc[0]
    sources = [path, Path(path), Path(path).read_bytes(), Image.open(path), open_image(path, None)]
    got = [dls.test_dl([o], num_workers=0).one_batch()[0].cpu().numpy() for o in sources]
    assert np.array_equal(got[0], got[1]) and np.array_equal(got[0], got[2])
    assert all(np.abs(g - got[0]).mean() < .02 for g in got)  # a picture in memory is made smaller otherwise than a JPEG while decoding


def test_a_table_of_ones_own_split_is_used(bears):
    df = split(dataset(bears)); df['part'] = np.where(np.arange(len(df)) % 4 == 0, 'valid', 'train')
    assert len(bear_dls(df, size=48).valid_ds) == (df.part == 'valid').sum()


def test_random_views_vary_in_training_alone(bears):
    dls = bear_dls(bears, size=48, item_tfms=[RandomView(.3), Square(48)])
    batches = lambda dl: {dl.new(shuffle=False).one_batch()[0].cpu().numpy().tobytes() for _ in range(3)}
    assert len(batches(dls.train)) == 3 and len(batches(dls.valid)) == 1
    plain = bear_dls(bears, size=48)
    assert len(batches(plain.train)) == 1


def test_galleries_draw(bears):
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    path = dataset(bears).path[0]
    resize_gallery(path, 32, crops=2); assert len(plt.gcf().axes) == 5
    augment_gallery(path, 32, n=4); assert len(plt.gcf().axes) >= 4
    plt.close('all')


@needs_photos
def test_real_photographs_form_a_dataset():
    df = split(dataset(PHOTOS/'bears'))
    assert len(df) == 414 and df.groupby('group').part.nunique().max() == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error'); assert len(dataset(PHOTOS/'awkward')) == sum(1 for o in (PHOTOS/'awkward').glob('*/*'))
