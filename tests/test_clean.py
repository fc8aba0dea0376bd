"Ranking, journal, plan, apply and restore: what a notebook cell cannot prove"
import os, shutil, subprocess, sys, unicodedata
from pathlib import Path
import numpy as np, pytest

pytest.importorskip('imagehash', reason='near-copies need imagehash')
from hypothesis import HealthCheck, given, settings, strategies as st
from bear_classifier.clean import add_unlabelled, gather_evidence, held_out_scores, look_at, most_informative, neighbour_distance, picture_faults, rank_unlabelled, surprise
from bear_classifier.journal import Journal, apply, class_name, compare_reviews, kappa, merge_reviews, plan, restore, safe_path
from bear_classifier.core import DataError, ImageError, append_line, image_files, read_lines, sha256_of
from bear_classifier.gather import DatasetVersion, data_card, gather, read_manifest
from bear_classifier.practice import draw_bear, practice_dataset
from reviewing import Colours

def tree(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(Path(root).rglob('*')) if p.is_file() and not p.name.startswith(('.review', 'review.jsonl', 'manifest'))}
def contents(root): return sorted(tree(root).values())

@pytest.fixture
def root(tmp_path):
    "A small dataset: any bytes will do where nothing is opened"
    d = tmp_path/'set'
    for c in ('black', 'grizzly', 'teddy'):
        (d/c).mkdir(parents=True)
        for i in range(6):
            data = f'{c} {i}'.encode(); (d/c/f'{sha256_of(data)[:16]}.jpg').write_bytes(data)
    return d

def images(root, label): return [(p.relative_to(root).as_posix(), sha256_of(p)) for p in sorted((root/label).glob('*'))]
def journal(root, **kw): return Journal(root/'review.jsonl', **kw)

# ---- ranking ----

def blobs(n=60, f=16, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], n)
    return (rng.normal(size=(3, f))[y]*2 + rng.normal(size=(3*n, f))*.6).astype(np.float32), y

def test_held_out_scores_equal_leaving_out_by_hand():
    x, y = blobs(15)
    groups = np.arange(len(y)); groups[3] = groups[7] = groups[20]
    got = held_out_scores(x, y, groups)
    u = x - x.mean(0); u = u/np.linalg.norm(u, axis=1, keepdims=True); u = np.c_[u, np.ones(len(u))].astype(float)
    w = len(y)/(3*np.bincount(y))[y]
    for g in (groups[0], groups[20]):
        out = groups == g
        a = u[~out]*w[~out, None]
        assert np.allclose(got[out], u[out] @ np.linalg.solve(a.T @ u[~out] + np.eye(u.shape[1]), a.T @ np.eye(3)[y[~out]]), atol=1e-6)

def test_planted_labels_come_first():
    x, y = blobs()
    wrong = np.random.default_rng(1).choice(len(y), 9, replace=False)
    bad = y.copy(); bad[wrong] = (y[wrong] + 1) % 3
    looks = np.random.default_rng(2).uniform(1, 2, (len(y), 10))
    e = gather_evidence(x, bad, looks, np.random.default_rng(3).integers(0, 2**63, len(y)))
    assert set(wrong) <= set(np.argsort(-e.score)[:18])

def test_the_same_mistake_twice_does_not_vouch_for_itself():
    x, y = blobs()
    x = np.concatenate([x, x[:1], x[:1]]); y = np.concatenate([y, [2, 2]])
    groups = np.r_[np.arange(180), 0, 0]
    assert (held_out_scores(x, y, groups)[[180, 181], 2] < held_out_scores(x, y)[[180, 181], 2]).all()
    assert neighbour_distance(x, groups, y, 1)[180] > neighbour_distance(x, np.arange(182), y, 1)[180] + .1

def test_a_photo_under_two_labels_is_named():
    x, y = blobs()
    hashes = np.random.default_rng(3).integers(0, 2**63, len(y)); hashes[100] = hashes[5]
    e = gather_evidence(x, y, np.ones((len(y), 10)), hashes)
    assert np.flatnonzero(e.two_labels).tolist() == [5, 100] and set(np.argsort(-e.score)[:4]) >= {5, 100}

@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_surprise_keeps_the_order_and_is_finite(scores):
    s = np.array(scores); b = surprise(s)
    assert np.isfinite(b).all() and (b >= -1e-12).all()
    assert all((b[i] < b[j]) == (s[i] < s[j]) for i in range(len(s)) for j in range(len(s)))

def test_faults_of_a_picture(tmp_path):
    from PIL import Image, ImageFilter
    bear = draw_bear('grizzly', 3, 200, light='day')
    assert picture_faults(look_at(bear)) == []
    assert 'too dark' in picture_faults(look_at(bear.point(lambda v: v//12)))
    assert 'blurred' in picture_faults(look_at(bear.filter(ImageFilter.GaussianBlur(9))))
    assert 'too small' in picture_faults(look_at(bear.resize((40, 40))))
    assert 'a narrow strip' in picture_faults(look_at(bear.resize((800, 90))))
    assert 'hardly any contrast' in picture_faults(look_at(Image.new('RGB', (100, 100), 'grey')))

def test_most_informative_is_a_permutation_and_starts_uncertain():
    p = np.array([[.98, .01, .01], [.34, .33, .33], [.9, .05, .05], [.34, .33, .33]]); f = np.eye(4)[[0, 1, 2, 1]]
    order = most_informative(p, f)
    assert sorted(order) == [0, 1, 2, 3] and order[0] in (1, 3) and order[1] not in (1, 3)

def test_files_that_do_not_open_are_passed_over_or_named(tmp_path):
    from bear_classifier.review import Review, Reviewer
    d = practice_dataset(tmp_path/'bears', 5, size=64); (d/'black'/'torn.jpg').write_bytes(b'torn')
    (tmp_path/'new').mkdir(); draw_bear('teddy', 1, 96).save(tmp_path/'new'/'a.png'); (tmp_path/'new'/'b.png').write_bytes(b'torn')
    with pytest.raises(ImageError, match='b.png'): add_unlabelled(d, tmp_path/'new')
    assert not (d/'.inbox').exists() and len(add_unlabelled(d, str(tmp_path/'new'/'a.png'))) == 1
    table = rank_unlabelled(d, Colours()); (d/'polar').mkdir()
    assert len(table) == 1 and set(Review(d, table).classes) == {'black', 'grizzly', 'teddy', 'polar'}
    w = Reviewer(d); w._rank(Colours())
    assert w.review.ranked and [o.origin for o in w.review.items][-1] == 'black/torn.jpg' and len(w.review.items) == 16
    shutil.rmtree(d/'black'); shutil.rmtree(d/'grizzly')
    with pytest.raises(DataError, match='two class folders'): rank_unlabelled(d, Colours())

# ---- names ----

@pytest.mark.parametrize('name', ['', '  ', '.hidden', 'a/b', 'a\\b', '..', 'con', 'Aux.x', 'COM1', 'lpt9', 'nul .x', 'x.', 'a:b', 'a\0b', 'a\nb', 'a\u202eb', 'é'*60, 'x'*101, None, 7])
def test_names_that_no_folder_may_have(name):
    with pytest.raises(DataError, match='cannot be called'): class_name(name)

@pytest.mark.parametrize('name', ['Teddy', 'TEDDY', 'teddy '.upper()])
def test_names_that_differ_in_case_only(name):
    with pytest.raises(DataError, match="use 'teddy'"): class_name(name, ['teddy'])

def test_names_that_look_alike_in_unicode():
    assert class_name(unicodedata.normalize('NFD', 'bär')) == unicodedata.normalize('NFC', 'bär')
    with pytest.raises(DataError, match='already'): class_name('BÄR', ['bär'])
    assert class_name('polar bear') == 'polar bear' and class_name('teddy', ['teddy']) == 'teddy'

# ---- journal ----

def test_undo_back_to_the_beginning_and_redo(root):
    j = journal(root)
    for k, image in enumerate(images(root, 'black')): j.decide([image], ('keep', 'drop', 'label')[k % 3], 'teddy' if k % 3 == 2 else '')
    full = {k: d.do for k, d in j.state.items()}
    while j.undo(): pass
    assert j.state == {} and j.undo() is None
    while j.redo(): pass
    assert {k: d.do for k, d in journal(root).state.items()} == full
    j.undo(); j.decide([images(root, 'grizzly')[0]], 'keep')
    assert j.redo() is None

@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 4000), junk=st.binary(max_size=30))
def test_a_torn_journal_costs_the_torn_line_alone(tmp_path, cut, junk):
    f = tmp_path/f'{cut}-{len(junk)}-{os.urandom(4).hex()}.jsonl'
    j = Journal(f)
    for i in range(8): j.decide([(f'black/{i}.jpg', 'a'*64)], 'keep')
    data = f.read_bytes()[:cut]; whole = data.count(b'\n') + (data.endswith(b'}') )
    f.write_bytes(data + (junk.replace(b'\n', b'') if cut < 3000 and not data.endswith((b'\n', b'}')) and data else b''))
    again = Journal(f)
    assert len(again.state) >= min(8, whole) - 1
    again.decide([('teddy/x.jpg', 'b'*64)], 'drop')
    assert Journal(f).state['teddy/x.jpg'].do == 'drop' and len(Journal(f).state) >= min(8, whole)

def test_strange_lines_are_passed_over(root):
    f = root/'review.jsonl'
    good = images(root, 'black')[0]
    for o in [{}, {'do': 'drop'}, {'do': 'drop', 'id': 'x', 'images': 'y'}, {'do': 'drop', 'id': 'x', 'images': [3, {'path': 4}]}, {'do': 'undo'}, {'do': 'undo', 'of': ['x']},
              {'do': 'move', 'id': 'm'}, {'do': 'moved', 'of': 'nobody'}, {'do': ['drop']}, {'do': 'label', 'id': 'y', 'to': 5, 'images': []}]: append_line(f, o)
    f.open('ab').write(b'[1, 2]\n"text"\n\xff\xfe\n')
    journal(root).decide([good], 'drop')
    assert list(journal(root).state) == [good[0]] and len(apply(root)) == 1

def test_two_writers_lose_nothing(root):
    code = 'import sys; from bear_classifier.journal import Journal; j = Journal(sys.argv[1], sys.argv[2])\nfor i in range(40): j.decide([(f"black/{sys.argv[2]}{i}.jpg", "a"*64)], "keep")'
    procs = [subprocess.Popen([sys.executable, '-c', code, str(root/'review.jsonl'), who]) for who in ('ana', 'ben')]
    assert [p.wait() for p in procs] == [0, 0] and len(journal(root).state) == 80

# ---- plan, apply, restore ----

def decide_some(root):
    j = journal(root, who='ana')
    black, grizzly, teddy = (images(root, o) for o in ('black', 'grizzly', 'teddy'))
    j.decide(black[:2], 'drop'); j.decide([grizzly[0]], 'label', 'teddy'); j.decide([grizzly[1]], 'label', 'polar bear'); j.decide([teddy[0]], 'keep')
    return j

def test_plan_touches_nothing_and_apply_does_what_it_says(root):
    decide_some(root); before = tree(root)
    steps = plan(root)
    assert tree(root) == before and len(steps.moves) == 4
    done = apply(root)
    assert [(o.path, o.to) for o in done] == [(o.path, o.to) for o in steps]
    assert contents(root) == sorted(before.values()) and plan(root) == [] and apply(root) == []
    assert len(list((root/'polar bear').iterdir())) == 1 and len(list((root/'.trash').rglob('*.jpg'))) == 2

def test_restore_all_and_one(root):
    before, version = tree(root), DatasetVersion.of(root)
    decide_some(root); apply(root)
    one = next(o for o in (p.relative_to(root).as_posix() for p in (root/'.trash').rglob('*.jpg')))
    assert len(restore(root, [one])) == 1
    assert len(restore(root)) == 3
    assert tree(root) == before and DatasetVersion.of(root) == version
    with pytest.raises(DataError, match='never moved'): restore(root, ['black/nothing.jpg'])

def test_undo_after_apply_brings_it_back(root):
    before = tree(root); j = decide_some(root); apply(root)
    while j.undo(): pass
    apply(root); assert tree(root) == before
    while j.redo(): pass
    apply(root); assert tree(root) != before and plan(root) == []

def test_changing_ones_mind_after_apply(root):
    rel, sha = images(root, 'black')[0]
    j = journal(root); j.decide([(rel, sha)], 'label', 'teddy'); apply(root)
    now = f'teddy/{sha[:16]}.jpg'; assert (root/now).exists()
    j.refresh(); j.decide([(now, sha)], 'keep'); assert plan(root) == []
    j.decide([(now, sha)], 'label', 'grizzly'); apply(root); assert (root/f'grizzly/{sha[:16]}.jpg').exists()
    j.refresh(); j.decide([(f'grizzly/{sha[:16]}.jpg', sha)], 'drop'); apply(root)
    assert restore(root) and (root/rel).exists() and plan(root) == []

def test_never_overwrites(root):
    rel, sha = images(root, 'black')[0]
    (root/'teddy'/f'{sha[:16]}.jpg').write_bytes(b'somebody else')
    before = contents(root)
    journal(root).decide([(rel, sha)], 'label', 'teddy'); apply(root)
    assert contents(root) == before and (root/'teddy'/f'{sha[:16]}-2.jpg').exists()
    (root/rel).parent.mkdir(exist_ok=True); (root/rel).write_bytes(b'a newcomer')
    assert [o.problem for o in restore(root)] and (root/rel).read_bytes() == b'a newcomer' and len(contents(root)) == len(before) + 1

def test_the_same_photo_under_two_labels_stays_once(root):
    rel, sha = images(root, 'black')[0]
    shutil.copy(root/rel, root/'teddy'/Path(rel).name); before = contents(root)
    journal(root).decide([(rel, sha)], 'label', 'teddy'); apply(root)
    assert contents(root) == before and not (root/rel).exists() and len(list((root/'.trash').rglob('*.jpg'))) == 1 and plan(root) == []

def test_copies_that_change_places(root):
    rel, sha = images(root, 'black')[0]; other = f'teddy/{Path(rel).name}'
    shutil.copy(root/rel, root/other); before = tree(root)
    j = journal(root); j.decide([(rel, sha)], 'label', 'teddy'); j.decide([(other, sha)], 'label', 'black')
    apply(root); assert tree(root) == before and plan(root) == []
    restore(root); assert tree(root) == before and plan(root) == []

def test_what_a_second_round_moved_is_not_refused(root):
    "Its old place is taken until the other one has left it"
    (other, sha), j = images(root, 'teddy')[0], journal(root)
    rel = f'black/{sha[:16]}.jpg'; (root/rel).write_bytes(b'here first'); before = tree(root)
    j.decide([(rel, sha256_of(b'here first'))], 'label', 'grizzly'); apply(root)
    j.decide([(other, sha)], 'label', 'black'); apply(root); assert sha256_of(root/rel) == sha
    done = restore(root); assert len(done) == 2 and done.problems == [] and tree(root) == before

def test_refusals_come_first_on_the_page(root):
    from bear_classifier.review import Review
    j = journal(root)
    for o in images(root, 'black'): j.decide([o], 'drop')
    (root/images(root, 'black')[-1][0]).write_bytes(b'edited since')
    assert [o[3] for o in Review(root).show_plan()['rows']] == [True] + [False]*5

def test_a_changed_file_is_left_alone(root):
    rel, sha = images(root, 'black')[0]
    journal(root).decide([(rel, sha)], 'drop'); (root/rel).write_bytes(b'edited since')
    assert 'changed' in apply(root)[0].problem and (root/rel).read_bytes() == b'edited since'

def test_the_lock_keeps_a_second_apply_out(root):
    from bear_classifier.journal import _alone
    decide_some(root)
    with _alone(root), pytest.raises(DataError, match='another process'): apply(root)
    assert len(apply(root)) == 4

BAD = ['../out.jpg', '/etc/passwd', 'black/../../out.jpg', 'black/..', '.git/config', 'black', '', 'C:/x/y.jpg', 'black\\x.jpg', '\\\\host\\x', 'black/\0.jpg', '.trash/../../out.jpg', 'black/.hidden']

@pytest.mark.parametrize('path', BAD)
def test_a_journal_cannot_reach_outside(root, path):
    out = root.parent/'out.jpg'; out.write_bytes(b'precious'); sha = sha256_of(b'precious'); before = tree(root.parent)
    append_line(root/'review.jsonl', dict(do='drop', id='a', images=[dict(path=path, sha256=sha)]))
    steps = apply(root)
    assert steps.moves == [] and len(steps.problems) == 1 and {k: v for k, v in tree(root.parent).items() if 'review' not in k} == before
    with pytest.raises(DataError): safe_path(root, path)

@pytest.mark.parametrize('to', ['..', '../out', '.trash', 'a/b', 'CON', '/tmp', 'TEDDY'])
def test_a_journal_cannot_name_a_bad_class(root, to):
    rel, sha = images(root, 'black')[0]; before = tree(root)
    append_line(root/'review.jsonl', dict(do='label', id='a', to=to, images=[dict(path=rel, sha256=sha)]))
    assert apply(root)[0].problem and tree(root) == before

@pytest.mark.parametrize('move', [('../out.jpg', 'black/x.jpg'), ('black/x.jpg', '../out.jpg'), ('../../a', '../out.jpg')])
def test_forged_moves_reach_nothing(root, move):
    out = root.parent/'out.jpg'; out.write_bytes(b'precious'); sha = sha256_of(b'precious')
    for tail in ([], [dict(do='moved', of='m')]):
        append_line(root/'review.jsonl', {'do': 'move', 'id': 'm', 'from': move[0], 'to': move[1], 'sha256': sha})
        for o in tail: append_line(root/'review.jsonl', o)
        apply(root); assert out.read_bytes() == b'precious'
    restore(root); assert out.read_bytes() == b'precious' and not (root/'black/x.jpg').exists()

@pytest.mark.skipif(os.name == 'nt', reason='links need rights on Windows')
def test_links_are_not_followed(root):
    outside = root.parent/'outside'; outside.mkdir(); (outside/'x.jpg').write_bytes(b'precious'); sha = sha256_of(b'precious')
    (root/'linked').symlink_to(outside); (root/'black'/'link.jpg').symlink_to(outside/'x.jpg')
    for path in ('linked/x.jpg', 'black/link.jpg'): append_line(root/'review.jsonl', dict(do='drop', id=path, images=[dict(path=path, sha256=sha)]))
    rel, s = images(root, 'teddy')[0]; journal(root).decide([(rel, s)], 'label', 'linked')
    (root/'.trash').symlink_to(outside); rel2, s2 = images(root, 'grizzly')[0]; journal(root).decide([(rel2, s2)], 'drop')
    assert len(apply(root).problems) == 4 and sorted(os.listdir(outside)) == ['x.jpg'] and (root/rel).exists() and (root/rel2).exists()

def test_where_no_hard_links_are_known(root, monkeypatch):
    import errno
    def no_links(*a, **k): raise OSError(errno.EPERM, 'not on this disk')
    monkeypatch.setattr(os, 'link', no_links)
    before = tree(root); decide_some(root); assert len(apply(root).moves) == 4
    restore(root); assert tree(root) == before

def test_manifest_follows(root):
    rows = [dict(path=p, sha256=s, label=p.split('/')[0], status='kept', kind='', reason='', url=f'https://example.org/{s[:8]}', bytes=(root/p).stat().st_size, phash='', group='')
            for c in ('black', 'grizzly', 'teddy') for p, s in images(root, c)]
    for o in rows: append_line(root/'manifest.jsonl', o)
    decide_some(root); apply(root); n = len(read_lines(root/'manifest.jsonl')); apply(root)
    assert len(read_lines(root/'manifest.jsonl')) == n
    now = read_manifest(root)
    kept = {o['path'] for o in now if o['status'] == 'kept'}
    assert kept == {p.relative_to(root).as_posix() for p in image_files(root)} and sum(o.get('kind') == 'dropped' for o in now) == 2
    restore(root)
    assert {o['path'] for o in read_manifest(root) if o['status'] == 'kept'} == {o['path'] for o in rows}

def test_inbox_is_outside_the_dataset_until_labelled(root, tmp_path):
    draw_bear('teddy', 1, 96).save(tmp_path/'photo.png'); v = DatasetVersion.of(root)
    rel, = add_unlabelled(root, [tmp_path/'photo.png']); assert DatasetVersion.of(root) == v
    j = journal(root); j.decide([(rel, sha256_of(root/rel))], 'label', 'teddy'); apply(root)
    assert len(list((root/'teddy').iterdir())) == 7
    restore(root); assert (root/rel).exists() and DatasetVersion.of(root) == v

def test_a_labelled_image_enters_the_manifest_and_leaves_it(root, tmp_path):
    gather(root, from_=practice_dataset(tmp_path/'more', 2, size=64), progress=False)
    draw_bear('teddy', 1, 96).save(tmp_path/'photo.png')
    rel, = add_unlabelled(root, [tmp_path/'photo.png'])
    j = journal(root); j.decide([(rel, sha256_of(root/rel))], 'label', 'teddy'); apply(root)
    row, = [o for o in read_manifest(root) if o['reason'] == 'labelled in review']
    assert row['path'].startswith('teddy/') and (root/row['path']).is_file() and row['sha256'] == sha256_of(root/row['path']) and row['width'] == 96 and row['status'] == 'kept'
    assert "| teddy | 9 |" in data_card(root)
    apply(root); assert sum(o['reason'] == 'labelled in review' for o in read_manifest(root)) == 1
    restore(root)
    assert not any(o['status'] == 'kept' and o['sha256'] == row['sha256'] for o in read_manifest(root))

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 17), st.sampled_from(['keep', 'drop', 'black', 'grizzly', 'teddy', 'polar', 'undo', 'redo', 'apply', 'restore'])), max_size=25))
def test_any_story_loses_nothing(tmp_path, story):
    "Whatever is decided, undone and applied: the same contents, a settled plan, and a way back"
    d = tmp_path/os.urandom(6).hex()
    for i in range(18):
        p = d/('black', 'grizzly', 'teddy')[i % 3]/f'{sha256_of(bytes([i % 15]))[:16]}-{i}.jpg'
        p.parent.mkdir(parents=True, exist_ok=True); p.write_bytes(bytes([i % 15]))
    before, j, origins = tree(d), journal(d), sorted(tree(d))
    for i, act in story:
        j.refresh()
        if act in ('undo', 'redo'): getattr(j, act)()
        elif act == 'apply': apply(d)
        elif act == 'restore': restore(d)
        else:
            at = j.at.get(origins[i], origins[i]); sha = sha256_of(before[origins[i]])
            j.decide([(at, sha)], *((act,) if act in ('keep', 'drop') else ('label', act)))
        assert contents(d) == sorted(before.values())
    assert apply(d).problems == [] and plan(d) == [] and contents(d) == sorted(before.values())
    restore(d); assert tree(d) == before and plan(d) == []

def test_a_pending_move_onto_itself_loses_nothing(root):
    rel, sha = images(root, 'black')[0]; before = tree(root)
    append_line(root/'review.jsonl', {'do': 'move', 'id': 'm', 'from': rel, 'to': f'black/./{Path(rel).name}', 'sha256': sha})
    apply(root); assert tree(root) == before

@pytest.mark.skipif(os.name == 'nt', reason='links need rights on Windows')
def test_a_pending_move_of_other_content_is_void(root):
    (rel, sha), (other, _) = images(root, 'black')[:2]
    (root/other).unlink(); os.link(root/rel, root/other); before = tree(root)
    append_line(root/'review.jsonl', {'do': 'move', 'id': 'm', 'from': rel, 'to': other, 'sha256': 'a'*64})
    apply(root); assert tree(root) == before

def test_restore_leaves_other_decisions_waiting(root):
    j, (a, b, c) = journal(root, who='ana'), images(root, 'black')[:3]
    j.decide([b], 'drop'); assert restore(root) == [] and (root/b[0]).exists()
    j.decide([a], 'drop'); apply(root); j.decide([c], 'drop')
    assert len(restore(root, [a[0]], who='ana')) == 1 and (root/a[0]).exists() and (root/c[0]).exists() and not (root/b[0]).exists()
    assert journal(root).state[a[0]].who == 'ana' and len(plan(root)) == 1

def test_what_is_kept_does_not_stay_in_the_trash(root):
    rel, sha = images(root, 'black')[0]; j = journal(root)
    j.decide([(rel, sha)], 'drop'); apply(root); j.refresh()
    j.decide([(j.at[rel], sha)], 'keep')
    assert j.state[rel].answer == 'black' and [o.to for o in plan(root)] == [rel]
    apply(root); assert (root/rel).exists() and plan(root) == []

def test_a_newcomer_with_an_old_name_is_named_and_left_alone(root):
    from bear_classifier.review import Review, Reviewer
    rel, sha = images(root, 'black')[0]; j = journal(root)
    j.decide([(rel, sha)], 'drop'); apply(root); (root/rel).write_bytes(b'a newcomer'); j.refresh(); away = j.at[rel]
    assert len(Review(root).find()) == 18 and 'was the name of an image' in Reviewer(root).answer(dict(kind='page'))['told']
    j.decide([(rel, sha256_of(b'a newcomer'))], 'drop')
    assert ['give the new one another name' in o.problem for o in apply(root)] == [True] and (root/rel).read_bytes() == b'a newcomer'
    (root/rel).unlink(); restore(root); assert sha256_of(root/rel) == sha and not (root/away).exists()

@pytest.mark.skipif(os.name == 'nt', reason='such names cannot be there')
def test_one_odd_name_or_line_blocks_nothing(root):
    from bear_classifier.review import Review
    for o in (b'we\\ird.jpg', b'\xff.jpg'): (Path(os.fsdecode(os.fsencode(root/'black')+b'/'+o))).write_bytes(b'odd')
    r = Review(root); assert len(r.page()['cards']) == 19 and 'rename the file' in ''.join(r.strangers.values())
    with pytest.raises(DataError): r.decide(['black/we\\ird.jpg'], 'drop')
    (root/'review.jsonl').write_text('{"do": "moved", "of": [1]}\n{"do": "drop", "id": "a", "images": [{"path": "black/\\ud800.png", "sha256": "' + 'a'*64 + '"}]}\n')
    assert 'Unicode' in plan(root)[0].problem

def test_where_the_old_name_cannot_go_the_new_one_goes(root, monkeypatch):
    rel, sha = images(root, 'black')[0]; before = tree(root); unlink = os.unlink
    def stuck(p, *a, **k):
        if Path(p) == root/rel: raise PermissionError(13, 'held')
        unlink(p, *a, **k)
    journal(root).decide([(rel, sha)], 'drop'); monkeypatch.setattr(os, 'unlink', stuck)
    assert 'could not be moved' in apply(root)[0].problem and tree(root) == before

def test_an_image_deleted_by_hand_later_stops_no_apply(root, tmp_path):
    gather(root, from_=practice_dataset(tmp_path/'more', 2, size=64), progress=False); (root/'manifest.jsonl').touch()
    draw_bear('teddy', 1, 96).save(tmp_path/'photo.png'); rel, = add_unlabelled(root, [tmp_path/'photo.png'])
    j = journal(root); j.decide([(rel, sha256_of(root/rel))], 'label', 'teddy'); apply(root); j.refresh()
    (root/j.at[rel]).unlink(); (root/'manifest.jsonl').write_text('')
    rel2, sha2 = images(root, 'black')[0]; j.decide([(rel2, sha2)], 'drop')
    assert len(apply(root).moves) == 1

def test_a_class_keeps_the_spelling_of_its_folder(root):
    nfd = unicodedata.normalize('NFD', 'bär'); (root/nfd).mkdir(); (root/nfd/'x.jpg').write_bytes(b'x')
    assert class_name('bär', [nfd]) == nfd and class_name('teddy', ['Teddy', 'teddy']) == 'teddy'
    a, b = images(root, 'black')[:2]
    for o in (a, b): journal(root).decide([o], 'label', 'bär')
    assert [o.to.split('/')[0] for o in apply(root).moves] == [nfd, nfd] and len(list((root/nfd).iterdir())) == 3

# ---- two reviewers ----

def test_kappa_known_values():
    assert kappa(list('aabb'), list('aabb')) == 1 and abs(kappa(list('aabb'), list('abab'))) < 1e-9
    a = ['y']*25 + ['n']*25; b = ['y']*20 + ['n']*5 + ['y']*10 + ['n']*15
    assert abs(kappa(a, b) - .4) < 1e-9 and np.isnan(kappa([], []))

def test_merge_two_reviewers(root, tmp_path):
    ana, ben = Journal(tmp_path/'ana.jsonl', 'ana'), Journal(tmp_path/'ben.jsonl', 'ben')
    black = images(root, 'black')
    for j, acts in ((ana, ['drop', 'keep', 'keep', 'drop']), (ben, ['drop', 'keep', 'drop'])):
        for image, act in zip(black, acts): j.decide([image], act)
    found = merge_reviews(root/'review.jsonl', ana.path, ben.path)
    assert (found.both, found.same) == (3, 2) and found.differ == [(black[2][0], 'black', 'drop')]
    state = journal(root).state
    assert {k: d.do for k, d in state.items()} == {black[0][0]: 'drop', black[1][0]: 'keep', black[3][0]: 'drop'} and state[black[3][0]].who == 'ana'
    merge_reviews(root/'review.jsonl', ana.path, ben.path, prefer='b')
    assert journal(root).state[black[2][0]].do == 'drop' and compare_reviews(ana.path, ana.path).kappa == 1

def test_what_was_restored_is_no_answer_and_a_missing_journal_is_said(root, tmp_path):
    ana, ben, black = Journal(tmp_path/'ana.jsonl', 'ana'), Journal(tmp_path/'ben.jsonl', 'ben'), images(root, 'black')
    ana.decide([black[0]], 'restore'); ben.decide([black[0]], 'drop')
    assert compare_reviews(ana.path, ben.path).both == 0
    for f in (compare_reviews, lambda a, b: merge_reviews(tmp_path/'both.jsonl', a, b)):
        with pytest.raises(DataError, match='no journal'): f(ana.path, tmp_path/'bin.jsonl')

def test_undo_takes_back_ones_own(root):
    ana, ben, black = journal(root, who='ana'), journal(root, who='ben'), images(root, 'black')
    ana.decide([black[0]], 'drop'); ben.decide([black[1]], 'drop')
    assert ana.undo()['who'] == 'ana' and ana.undo() is None and list(journal(root).state) == [black[1][0]]
    ben.refresh(); assert ben.own('undone') is None and ana.redo()['who'] == 'ana'
