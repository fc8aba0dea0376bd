"""From many ways in to one dataset: search, lists, folders and zips; copies, labels, reports."""
import io, json, subprocess, sys, zipfile
from collections import Counter
from pathlib import Path
import numpy as np, pytest
from PIL import Image
for o in ('ddgs', 'httpx', 'imagehash', 'cryptography'): pytest.importorskip(o)
from hypothesis import given, settings, strategies as st
from bear_classifier.core import DataError, append_line, image_files, read_lines, sha256_of
from bear_classifier.fetch import Limits, SearchError
from bear_classifier.gather import (DatasetVersion, Manifest, add_files, data_card, deduplicate, download, gather, hamming, near_groups, near_pairs, queries, read_manifest, read_urls,
                                    version_of)
from webdouble import Search, Web

def picture(seed, size=(128, 96), fmt='JPEG', quality=85):
    im = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    f = io.BytesIO(); im.save(f, fmt, **dict(quality=quality) if fmt == 'JPEG' else {})
    return f.getvalue()

@pytest.fixture
def web():
    files = {f'{k}/{i}.jpg': picture(100*j + i) for j,k in enumerate(('cat', 'dog')) for i in range(24)}
    with Web(files) as w: yield w

def reach(web): return Limits(connect=5, read=5, total=10, allow_private=web.places)

def found_by(web, bad=0):
    def find(query):
        label = query.split()[0]
        urls = [web.url(f'missing/{i}.jpg') for i in range(bad)] + [web.url(o) for o in web.files if o.startswith(label)]
        return [dict(url=o, page=o.replace('/', '/p/', 3), title=query) for o in ([] if 'night' in query else urls)]
    return find

def test_any_classes_end_to_end(web, tmp_path):
    "Search, download, report and card for classes that are no bears"
    with Search(found_by(web, bad=2), tmp_path, page=10) as service:
        dest, settings = tmp_path/'pets', dict(**service.settings, cache=tmp_path/'cache', pause=0, progress=False, limits=reach(web), query_templates=['{}', '{} at night'])
        report = gather(dest, ['cat', 'dog'], n=15, **settings)
        table = report.table()
        assert {k: (v['asked'], v['kept'], v['failed'], v['now']) for k,v in table.items()} == {'cat': (15, 15, 2, 15), 'dog': (15, 15, 2, 15)}
        assert report.failures() == {'refused by the host': 4} and not report.trouble
        assert {o['query'] for o in report.searches if not o['found']} == {'cat at night', 'dog at night'}
        card = (dest/'README.md').read_text()
        for o in ('nothing was found for "cat at night"', f'`{report.after.name}`', '| dog | 15 |', 'cat (15)', 'refused by the host (4)'): assert o in card, o
        assert '15' in str(report) and '<table>' in report._repr_html_()
        asked = len(service.asked), sum(web.asked.values())
        again = gather(dest, ['cat', 'dog'], n=15, **settings)
        assert (len(service.asked), sum(web.asked.values())) == asked and not again.rows and again.after == report.after
        victim = image_files(dest/'cat')[0]; victim.unlink()
        third = gather(dest, ['cat', 'dog'], n=15, **settings)
        assert third.table()['cat']['now'] == 15 and not victim.exists(), 'what a person deleted does not come back; another one does'
    for row in read_manifest(dest):
        assert set(row) >= set('path sha256 label status reason query url page title licence fetched_at width height bytes phash'.split())
        if row['status'] == 'kept' and (dest/row['path']).exists(): assert sha256_of(dest/row['path']) == row['sha256'] and Path(row['path']).stem == row['sha256'][:16]

def test_a_search_that_fails_leaves_what_there_is_and_says_so(web, tmp_path):
    with Search(found_by(web), tmp_path, page=10, moods=['ok'], then='429') as service:
        settings = dict(**service.settings, cache=False, pause=0, progress=False, limits=reach(web), engines=['bing'], query_templates=['{}'])
        report = gather(tmp_path/'set', ['cat'], n=20, patience=1, **settings)
        assert report.table()['cat']['now'] == 10 and '429' in report.trouble[0] and '429' in str(report)
        with pytest.raises(SearchError, match='Ways on'): gather(tmp_path/'none', ['dog'], n=20, patience=1, **settings)
        assert [o['found'] for o in read_lines(tmp_path/'none'/'searches.jsonl')] == [0]

def test_what_nobody_knows_and_spaces_in_names(web, tmp_path):
    "An empty search is told; and a space that ddgs turned into a + is found again"
    web.files['cat/two words.jpg'] = picture(999)
    def find(query): return [dict(url=web.url('cat/two%20words.jpg?w=1&t=a+b'), page='https://h.example/', title='a cat')] if 'cat' in query else []
    with Search(find, tmp_path) as service:
        settings = dict(**service.settings, cache=False, pause=0, progress=False, limits=reach(web), engines=['duckduckgo'], query_templates='{}')
        with pytest.raises(SearchError, match='none of 1 searches found.*snark'): gather(tmp_path/'none', ['snark'], n=5, **settings)
        report = gather(tmp_path/'set', ['cat'], n=5, **settings)
    assert [o['status'] for o in report.rows] == ['failed', 'kept'] and report.rows[1]['url'].endswith('/two%20words.jpg?w=1&t=a+b') and report.rows[1]['title'] == 'a cat'

def test_lists_of_addresses(web, tmp_path):
    (tmp_path/'a.csv').write_text('\ufeffLabel;URL;License\ncat;' + web.url('cat/1.jpg?w=1&h=2,3') + ';CC0\n\ndog;' + web.url('dog/1.jpg') + ';\nfox;file:///etc/passwd;\n')
    rows = read_urls(tmp_path/'a.csv')
    assert [(o['label'], o['licence']) for o in rows] == [('cat', 'CC0'), ('dog', ''), ('fox', '')] and rows[0]['url'].endswith('?w=1&h=2,3')
    report = gather(tmp_path/'set', urls=tmp_path/'a.csv', progress=False, limits=reach(web))
    assert {o['label']: (o['status'], o['licence']) for o in report.rows} == {'cat': ('kept', 'CC0'), 'dog': ('kept', ''), 'fox': ('failed', '')}
    assert web.asked['/cat/1.jpg?w=1&h=2,3'] == 1 and 'CC0 (1)' in data_card(tmp_path/'set')
    (tmp_path/'b.txt').write_text(f"{web.url('cat/2.jpg')}\n# a note\n{web.url('cat/3.jpg')}\n")
    assert len(gather(tmp_path/'set', ['cat'], urls=tmp_path/'b.txt', progress=False, limits=reach(web)).change['added']) == 2
    for text, said in (('', 'no addresses'), ('https://a.example/1.jpg\n', 'without a class')):
        (tmp_path/'c.txt').write_text(text)
        with pytest.raises(DataError, match=said): gather(tmp_path/'other', urls=tmp_path/'c.txt')
    with pytest.raises(DataError, match='cannot be read'): gather(tmp_path/'other', urls=tmp_path/'nowhere.csv')
    assert not (tmp_path/'other').exists()

def test_a_folder_and_the_same_as_a_zip(tmp_path):
    mine = tmp_path/'mine'
    for k in ('cat', 'dog'):
        (mine/k).mkdir(parents=True)
        for i in range(5): (mine/k/f'{i}.jpg').write_bytes(picture(i + 50*(k == 'dog')))
    (mine/'cat'/'page.jpg').write_text('<html>'); (mine/'cat'/'wrong name.jpg').write_bytes(picture(77, fmt='PNG')); (mine/'.DS_Store').write_text('x')
    with zipfile.ZipFile(tmp_path/'mine.zip', 'w') as z:
        for p in sorted(mine.rglob('*')): z.write(p, p.relative_to(tmp_path))
        z.writestr('__MACOSX/mine/cat/._1.jpg', 'x')
    a, b = (gather(tmp_path/f'set{i}', from_=o, progress=False) for i,o in enumerate((mine, tmp_path/'mine.zip')))
    assert a.after.name == b.after.name and len(a.after.pairs) == 11 and Counter(o['status'] for o in b.rows) == dict(kept=11, failed=1)
    assert [p.suffix for p in image_files(tmp_path/'set0'/'cat')].count('.png') == 1, 'named by what it is'
    assert sorted(p.name for p in mine.rglob('*.jpg')) == sorted(p.name for p in mine.rglob('*.jpg')) and len(list(mine.rglob('*.jpg'))) == 12, 'the source is left alone'
    assert gather(tmp_path/'set0', from_=mine, progress=False).change == dict(added=[], removed=[], relabelled=[])
    assert len(gather(tmp_path/'set3', ['dog'], from_=mine, progress=False).after.pairs) == 5
    assert len(gather(tmp_path/'set4', 'dog', from_=mine/'dog', progress=False).after.pairs) == 5, 'files in no folder, and one class'
    with pytest.raises(DataError, match='folder for each class'): gather(tmp_path/'set5', from_=mine/'dog', progress=False)
    with pytest.raises(DataError, match='neither a folder nor a zip'): gather(tmp_path/'set5', from_=mine/'dog'/'1.jpg')

def test_hostile_zips(tmp_path):
    with zipfile.ZipFile(tmp_path/'evil.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('bear/good.jpg', picture(1)); z.writestr('bear/../../outside.jpg', picture(2)); z.writestr('/bear/absolute.jpg', picture(3)); z.writestr('bear\\..\\..\\windows.jpg', picture(4))
        link = zipfile.ZipInfo('bear/link.jpg'); link.external_attr = 0o120777 << 16; z.writestr(link, '/etc/passwd')
        z.writestr('bear/bomb.jpg', bytes(100 * 2**20)); z.writestr('bear/nested.jpg', (lambda f: (zipfile.ZipFile(f, 'w').close(), f.getvalue())[1])(io.BytesIO()))
    rows = add_files(tmp_path/'evil.zip', tmp_path/'in'/'set', progress=False)
    assert Counter(o['status'] for o in rows) == dict(kept=1, failed=6) and all(o['reason'] for o in rows if o['status'] == 'failed')
    assert [p.name for p in tmp_path.rglob('*.jpg')] == [Path(next(o['path'] for o in rows if o['path'])).name]

def test_a_manifest_from_elsewhere_moves_nothing_outside(tmp_path):
    "Lines that are no rows are left out; rows that lack what is optional are not"
    with Manifest(tmp_path/'set') as m: row = m.keep(picture(1), dict(label='cat', url='https://h.example/1'))
    (tmp_path/'victim').mkdir(); (tmp_path/'victim'/'x.jpg').write_bytes(picture(1))
    lines = [row | dict(path=o, url=o, width=1) for o in ('../victim/x.jpg', str(tmp_path/'victim'/'x.jpg'), 'a/../../victim/x.jpg', '..\\victim\\x.jpg', 'C:/x.jpg')]
    lines += [{'n': 1}, row | dict(label=['cat']), row | dict(phash='xyz'), row | dict(bytes='9'), dict(path='cat/y.jpg', label='cat', status='kept')]
    visitor = dict(path='cat/z.jpg', sha256='0'*64, label='cat', status='kept', bytes=3, width=1, height=1, reason='a visitor', fetched_at='2024-01-01T00:00:00Z')
    with (tmp_path/'set'/'manifest.jsonl').open('a') as f: f.writelines(json.dumps(o) + '\n' for o in [*lines, visitor])
    deduplicate(tmp_path/'set')
    rows = read_manifest(tmp_path/'set')
    assert (tmp_path/'victim'/'x.jpg').exists() and [o['path'] for o in rows] == [row['path'], 'cat/z.jpg'] and rows[1]['url'] == ''
    assert len(DatasetVersion.of(tmp_path/'set').pairs) == 1 and '1 images' in data_card(tmp_path/'set')

def test_a_damaged_member_is_one_failure_and_a_damaged_zip_is_said(tmp_path):
    file = tmp_path/'mine.zip'
    for how in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(file, 'w', how) as z:
            for i in range(3): z.writestr(f'cat/{i}.jpg', picture(i, fmt='BMP'))
            bad = z.infolist()[1]
        data = bytearray(file.read_bytes()); at = bad.header_offset + 30 + len(bad.filename) + 9
        data[at:at+400] = b'\xff'*400; file.write_bytes(data)
        rows = add_files(file, tmp_path/f'set{how}', progress=False)
        assert [o['status'] for o in rows] == ['kept', 'failed', 'kept'] and rows[1]['reason']
    data[data.rindex(b'PK\1\2')] = 0; file.write_bytes(data)
    with pytest.raises(DataError, match='damaged: make or download it again'): add_files(file, tmp_path/'other', progress=False)

def test_a_bad_folder_name_is_said_before_anything_is_copied(tmp_path):
    with zipfile.ZipFile(tmp_path/'mine.zip', 'w') as z: z.writestr('cat/1.jpg', picture(1)); z.writestr('dog /2.jpg', picture(2))
    with pytest.raises(DataError, match='cannot be called'): gather(tmp_path/'set', from_=tmp_path/'mine.zip', progress=False)
    assert not (tmp_path/'set').exists()

def test_files_in_no_folder(tmp_path):
    with zipfile.ZipFile(tmp_path/'flat.zip', 'w') as z:
        for i in range(4): z.writestr(f'{i}.jpg', picture(i))
    assert gather(tmp_path/'set', 'cat', from_=tmp_path/'flat.zip', dry_run=True).found == dict(cat=4)
    assert gather(tmp_path/'set', 'cat', from_=tmp_path/'flat.zip', progress=False).table()['cat']['kept'] == 4
    with zipfile.ZipFile(tmp_path/'flat.zip', 'a') as z: z.writestr('dog/5.jpg', picture(5))
    with pytest.warns(UserWarning, match='4 files'): assert len(add_files(tmp_path/'flat.zip', tmp_path/'other', progress=False)) == 1

def test_a_list_in_memory_is_filtered_as_a_file_is(web, tmp_path):
    rows = [dict(url=web.url(f'{k}/1.jpg'), label=k) for k in ('cat', 'dog')]
    assert gather(tmp_path/'set', ['cat'], urls=rows, dry_run=True).found == dict(cat=1)
    assert download(rows, tmp_path/'set', n=0, limits=reach(web), progress=False) == [] and not web.asked

def test_quotes_and_commas_in_a_csv(tmp_path):
    (tmp_path/'a.csv').write_text('title,url,label\n"a ""big"" bear, in snow",https://a.example/1.jpg,black\n')
    row, = read_urls(tmp_path/'a.csv')
    assert row == dict(title='a "big" bear, in snow', url='https://a.example/1.jpg', label='black')

def test_the_card_judges_a_query_by_its_best_answer(tmp_path):
    (tmp_path/'set').mkdir()
    for q, n, error in (('a', 0, 'busy'), ('a', 5, ''), ('b', 0, 'busy'), ('c', 0, ''), ('c', 0, 'busy')): append_line(tmp_path/'set'/'searches.jsonl', dict(label=q, query=q, found=n, error=error))
    gaps = [o for o in data_card(tmp_path/'set').splitlines() if o.endswith('"')]
    assert gaps == ['- no search engine ever answered "b"', '- nothing was found for "c"']

def test_a_version_is_of_what_is_there_and_not_of_what_was_noted(tmp_path):
    with Manifest(tmp_path/'set') as m: row = m.keep(picture(1), dict(label='cat', url='https://h.example/1'))
    before, file = DatasetVersion.of(tmp_path/'set'), tmp_path/'set'/row['path']
    file.write_bytes(file.read_bytes()[:-1] + b'x')
    assert DatasetVersion.of(tmp_path/'set') != before

def test_a_copy_under_a_second_label_is_no_relabelling():
    old, new = DatasetVersion((('cat', 'a'),)), DatasetVersion((('dog', 'a'), ('fox', 'a')))
    assert new.compare(old) == dict(added=[('dog', 'a'), ('fox', 'a')], removed=[('cat', 'a')], relabelled=[])

@pytest.mark.parametrize('bad', ['../up', 'a/b', '', '.', '..', '.hidden', 'nul\0', 'back\\slash', 'trailing '])
def test_a_class_is_a_folder_name(bad, tmp_path):
    with pytest.raises(DataError, match='class cannot be called'): gather(tmp_path/'set', [bad], dry_run=True)

def test_dry_run_does_nothing(tmp_path):
    report = gather(tmp_path/'set', ['cat', 'dog'], n=30, dry_run=True)
    assert not (tmp_path/'set').exists() and [o['query'] for o in report.searches] == queries('cat') + queries('dog') and '60 images' in str(report)

def test_copies_and_contradictions(tmp_path):
    im = Image.open(io.BytesIO(picture(5, (400, 300), quality=95)))
    def saved(size, quality, fmt='JPEG'):
        f = io.BytesIO(); im.resize(size).save(f, fmt, quality=quality); return f.getvalue()
    with Manifest(tmp_path/'set') as m:
        for i,(label, content) in enumerate([('cat', saved((200, 150), 80)), ('cat', saved((400, 300), 90)), ('cat', saved((100, 75), 60, 'WEBP')), ('dog', saved((390, 290), 70)), ('cat', picture(6))]):
            m.keep(content, dict(label=label, url=f'https://h.example/{i}'))
        deduplicate(m)
    rows = {o['url'][-1]: o for o in read_manifest(tmp_path/'set')}
    assert {k: o['status'] for k,o in rows.items()} == {'0': 'duplicate', '1': 'kept', '2': 'duplicate', '3': 'kept', '4': 'kept'}, 'the largest stays'
    assert {rows[o]['group'] for o in '0123'} == {rows['1']['sha256'][:16]} and rows['4']['group'] == ''
    assert 'dog' in rows['1']['reason'] and 'cat' in rows['3']['reason'] and rows['1']['kind'] == rows['3']['kind'] == 'two_labels'
    assert sorted(p.name for p in (tmp_path/'set'/'.trash').rglob('*.*')) == sorted(Path(rows[o]['path']).name for o in '02'), 'put away, not lost'
    assert rows['1']['path'] in rows['0']['reason'] and deduplicate(tmp_path/'set') == []
    (tmp_path/'set'/rows['3']['path']).unlink()
    assert [(o['url'][-1], o['kind']) for o in deduplicate(tmp_path/'set')] == [('1', '')], 'the other half was removed: no contradiction is left'
    assert len(DatasetVersion.of(tmp_path/'set').pairs) == 2

def test_the_same_file_under_two_labels_is_kept_and_flagged(tmp_path):
    with Manifest(tmp_path/'set') as m:
        for k in ('cat', 'dog'): m.keep(picture(1), dict(label=k, url='https://h.example/1'))
        deduplicate(m)
    assert [(o['status'], o['kind']) for o in read_manifest(tmp_path/'set')] == [('kept', 'two_labels')]*2

hashes = st.lists(st.integers(0, 2**64 - 1), max_size=40)
@settings(max_examples=30, deadline=None)
@given(hashes, st.data(), st.integers(0, 11))
def test_near_pairs_are_all_pairs(some, data, d):
    "The index against the double loop, on chance and on planted neighbours"
    for o in some[:10]: some = some + [o ^ sum(1 << b for b in data.draw(st.sets(st.integers(0, 63), max_size=13)))]
    want = {(i, j) for i in range(len(some)) for j in range(i+1, len(some)) if hamming(some[i], some[j]) <= d}
    assert {tuple(o) for o in near_pairs(some, d).tolist()} == want
    groups = near_groups(some, d)
    assert len(groups) == len(some) and all(groups[i] == groups[j] for i,j in want)
    assert len(set(groups.tolist())) >= len(some) - len(want) and (not some or groups[0] == 0)

def test_versions():
    pairs = [('cat', 'a'*64), ('dog', 'b'*64)]
    old, new = DatasetVersion(tuple(pairs)), DatasetVersion((('cat', 'b'*64), ('cat', 'c'*64)))
    assert version_of(pairs) == version_of(pairs[::-1]) == old.name and len(old.name) == 12 and old.name != new.name
    assert new.compare(old) == dict(added=[('cat', 'c'*64)], removed=[('cat', 'a'*64)], relabelled=[('dog', 'cat', 'b'*64)])

def test_the_same_version_as_the_data_module(tmp_path):
    data = pytest.importorskip('bear_classifier.data', reason='needs the train extra')
    with Manifest(tmp_path/'set') as m:
        for i in range(6): m.keep(picture(i), dict(label='cat' if i % 2 else 'dog', url=f'https://h.example/{i}'))
    assert DatasetVersion.of(tmp_path/'set').name == data.dataset_version(tmp_path/'set')

def test_importing_is_light():
    code = "import sys, bear_classifier.gather; print(*[o for o in ('torch', 'fastai', 'pandas', 'matplotlib', 'scipy', 'ddgs', 'imagehash', 'httpx') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == ''

def test_a_missing_library_is_named_with_its_cure(tmp_path):
    code = ("import sys\nfor o in ('ddgs', 'httpx', 'imagehash'): sys.modules[o] = None\n"
            "from bear_classifier.gather import *\nfrom bear_classifier.core import DataError\n"
            f"for f in (lambda: search_images('bear', 3), lambda: download(['http://a.example/'], {str(tmp_path/'x')!r}, 'bear', progress=False), lambda: phash(b'')):\n"
            "    try: f()\n    except DataError as e: print(e)")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
    assert out.count("pip install 'bear_classifier[search]'") == 3, out
