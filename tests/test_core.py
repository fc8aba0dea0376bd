"The one door for images, at its hinges: every kind of file, hostile files, memory, and real photographs where there are some"
import csv, io, os, struct, subprocess, sys, zlib
from pathlib import Path

import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, ImageOps

from bear_classifier.core import (DataError, ImageError, Prediction, append_line, image_files, load_square, open_image, prepare, read_lines, write_atomic)
from photos import PHOTOS, needs_photos


def picture(w=320, h=240, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)


def saved(im, fmt, **kw):
    f = io.BytesIO()
    im.save(f, fmt, **kw)
    return f.getvalue()


def png(w, h, bits=8, colour=2, rows=b''):
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, colour, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def png16(rgb):
    "A 16-bit RGB PNG, which Pillow reads and cannot write"
    a = (np.asarray(rgb, np.uint16) * 257).astype('>u2')
    return png(a.shape[1], a.shape[0], bits=16, rows=b''.join(b'\0' + r.tobytes() for r in a))


def as_phone(im, orientation):
    "`im` as a phone held some way would save it"
    undo = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(im if undo is None else im.transpose(undo), 'JPEG', quality=95, subsampling=0, exif=exif)


def apart(a, b): return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


def test_every_orientation_is_turned_upright():
    im = picture()
    for o in range(1, 9): assert apart(load_square(as_phone(im, o), 96), prepare(im, 96)) < 3, o


def test_a_note_is_obeyed_once():
    "Whatever went through the door before, and however it is opened"
    upright = prepare(picture(), 96)
    for o in range(1, 9):
        data = as_phone(picture(), o)
        once = open_image(data)
        assert once.getexif().get(0x0112, 1) == 1 or o == 1, o
        for again in (once, open_image(once), Image.open(io.BytesIO(data))): assert apart(prepare(again, 96), upright) < 3, o
        assert apart(load_square(once, 96), load_square(data, 96)) < 3, o
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    turned = open_image(saved(picture().transpose(Image.Transpose.ROTATE_90), 'JPEG', quality=95, xmp=xmp))
    assert turned.size == (320, 240) and turned.getexif().get(0x0112, 1) == 1


def test_a_pillow_image_that_is_cut_off_says_so():
    for use in (open_image, prepare, load_square):
        with pytest.raises(ImageError, match='damaged'): use(Image.open(io.BytesIO(saved(picture(), 'JPEG')[:-900])))


def test_a_wrong_orientation_would_be_seen():
    assert apart(prepare(picture().transpose(Image.Transpose.FLIP_TOP_BOTTOM), 96), prepare(picture(), 96)) > 20


@pytest.mark.parametrize('name,data', [
    ('rgba', saved(picture().convert('RGBA'), 'PNG')), ('palette', saved(picture().quantize(255), 'PNG')), ('16 bit', png16(picture())),
    ('cmyk', saved(picture().convert('CMYK'), 'JPEG', quality=95)), ('webp', saved(picture(), 'WEBP', quality=95)), ('webp lossless', saved(picture(), 'WEBP', lossless=True)),
    ('gif', saved(picture(), 'GIF')), ('bmp', saved(picture(), 'BMP')), ('progressive', saved(picture(), 'JPEG', progressive=True, quality=95)),
    ('la', saved(picture().convert('LA'), 'PNG'))])
def test_same_picture_in_other_clothes(name, data):
    want = picture().convert('L').convert('RGB') if name == 'la' else picture()
    assert apart(open_image(data), want) < 12, name


def test_grey_of_sixteen_bits_is_not_saturated():
    grey = picture().convert('L')
    f = saved(Image.fromarray(np.asarray(grey, np.uint16) * 257), 'PNG')
    assert apart(np.asarray(open_image(f))[..., 0], grey) < 1


def test_sixteen_bits_may_be_transparent_too():
    data = png(20, 20, bits=16, colour=0, rows=(b'\0' + b'\x10\x05'*20)*20)
    end = data.index(b'IDAT') - 4
    clear = data[:end] + struct.pack('>I', 2) + b'tRNS\x10\x05' + struct.pack('>I', zlib.crc32(b'tRNS\x10\x05')) + data[end:]
    assert open_image(data).getpixel((3, 3)) == (16,)*3 and open_image(clear).getpixel((3, 3)) == (255,)*3


def test_colours_under_transparency_stay_hidden():
    im = Image.new('RGBA', (20, 20), (255, 0, 0, 0))
    assert open_image(saved(im, 'PNG')).getpixel((3, 3)) == (255, 255, 255)
    assert open_image(saved(im, 'WEBP', lossless=True, exact=True)).getpixel((3, 3)) == (255, 255, 255)


def test_webp_orientation_and_alpha_survive_the_lean_decoder():
    exif = Image.Exif(); exif[0x0112] = 3
    im = picture()
    assert apart(open_image(saved(im.rotate(180), 'WEBP', lossless=True, exif=exif)), im) < 1


def test_first_frame_of_an_animation():
    red, blue = Image.new('RGB', (30, 30), 'red'), Image.new('RGB', (30, 30), 'blue')
    for fmt in ('GIF', 'WEBP', 'PNG'):
        r, _, b = open_image(saved(red, fmt, save_all=True, append_images=[blue])).getpixel((5, 5))
        assert r > 200 and b < 50, fmt


@pytest.mark.parametrize('data,words', [
    (b'', 'empty'), (b'<!doctype html><html>', 'web page'), (b'hello there', 'text'), (b'%PDF-1.4 ', 'PDF'), (b'PK\x03\x04zip', 'zip'),
    (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', 'SVG'), (b'\0\0\0\x18ftypheic', 'HEIC'), (b'\0\0\0\x18ftypmp42', 'video'),
    (b'\x00\x01\x02\x03' * 20, 'not an image'), (saved(picture(), 'JPEG')[:900], 'damaged'), (saved(picture(), 'PNG')[:900], 'damaged'),
    (png(60_000, 60_000), 'too large'), (png(7000, 5500), 'too large'), (png(0, 10), 'damaged'), (b'GIF89a', 'damaged'), (b'RIFF\0\0\0\0WEBPVP8 ', 'damaged')])
def test_what_is_refused_and_why(data, words):
    with pytest.raises(ImageError, match=words): open_image(data)


@pytest.mark.parametrize('source,words', [
    ('/no/such/file.jpg', 'no file'), ('http://example.com/a.jpg', 'address'), (Path(__file__).parent, 'not a file'), (3, 'int'), (None, 'NoneType'),
    ('a\0b', 'no file'), (np.zeros((4, 4), np.uint8), 'uint8 of shape'), (np.zeros((4, 4, 3)), 'float64'), (np.zeros((0, 4, 3), np.uint8), 'uint8'), (io.StringIO('x'), 'text')])
def test_what_is_no_source(source, words):
    with pytest.raises(ImageError, match=words): open_image(source)


def test_a_jpeg_of_a_thousand_passes_is_refused():
    data = saved(picture(3000, 2000), 'JPEG', progressive=True)
    with pytest.raises(ImageError, match='passes'): open_image(data + b'\xff\xda' * 1000)


def in_three_scans(w, h):
    "A sequential JPEG that brings its colours one after the other"
    grey = saved(Image.new('L', (w, h), 90), 'JPEG')
    frame, scan = grey.index(b'\xff\xc0'), grey.index(b'\xff\xda')
    colours = struct.pack('>HBHHB', 17, 8, h, w, 3) + b''.join(bytes((i, 0x11, 0)) for i in (1, 2, 3))
    scans = b''.join(b'\xff\xda\0\x08\x01' + bytes((i, 0, 0, 63, 0)) + grey[scan+10:-2] for i in (1, 2, 3))
    return grey[:frame+2] + colours + grey[frame+13:scan] + scans + b'\xff\xd9'


def test_a_jpeg_in_several_scans_costs_its_coefficients():
    assert open_image(in_three_scans(320, 240)).size == (320, 240)
    with pytest.raises(ImageError, match='too large to open safely'): open_image(in_three_scans(6300, 6300), 224)
    assert min(open_image(saved(picture(6300, 6300), 'JPEG'), 224).size) >= 224, 'in one scan it may be that large'


def test_a_long_strip_is_refused_where_its_copy_would_not_fit():
    with pytest.raises(ImageError, match='too large to open safely'): open_image(png(100_000, 400, colour=0), 224)
    exif = Image.Exif(); exif[0x0112] = 6
    strip = Image.new('RGB', (60_000, 400))
    with pytest.raises(ImageError, match='turn upright'): open_image(saved(strip, 'PNG', exif=exif), 224)
    assert open_image(saved(strip, 'PNG'), 224).size == strip.size
    assert open_image(saved(Image.new('L', (6300, 6300)), 'PNG', compress_level=1), 224).size == (225, 225)


def test_the_size_is_a_floor_not_a_target():
    im = open_image(saved(picture(3000, 2000), 'JPEG'), size=224)
    assert min(im.size) >= 224 and max(im.size) < 800
    assert open_image(saved(picture(300, 200), 'JPEG'), size=224).size == (300, 200)
    assert open_image(saved(picture(3000, 2000), 'PNG'), size=None).size == (3000, 2000)


SEEDS = [saved(picture(64, 48), f, **kw) for f,kw in (('JPEG', {}), ('JPEG', dict(progressive=True)), ('PNG', {}), ('GIF', {}), ('WEBP', {}), ('BMP', {}), ('AVIF', {}))]


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12), st.floats(.05, 1))
def test_damaged_files_raise_one_type(data, edits, keep):
    data = bytearray(data[:max(1, int(len(data)*keep))])
    for where,byte in edits: data[min(int(where*len(data)), len(data)-1)] = byte
    try: im = open_image(bytes(data), 32)
    except ImageError as e: assert str(e)
    else: assert im.mode == 'RGB' and min(im.size) > 0


FUZZ = '''
import faulthandler, random, sys
from bear_classifier.core import ImageError, load_square
faulthandler.enable()
def resident(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1]) / 1024
def mutated(rng, data):
    "Bytes flipped, a stretch repeated, cut out or filled, the end cut off, two files in one"
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        i, n, how = rng.randrange(len(data)), rng.choice((1, 2, 4, 16, 256)), rng.randrange(6)
        if how == 0: data[i] ^= 1 << rng.randrange(8)
        elif how == 1: data[i:i+n] = rng.randbytes(len(data[i:i+n]))
        elif how == 2: data[i:i] = data[i:i+n]
        elif how == 3 and len(data) > n + 64: del data[i:i+n]
        elif how == 4: data[i:i+n] = rng.choice((b'\\0', b'\\xff', b'\\x7f')) * len(data[i:i+n])
        elif rng.random() < .3: del data[max(32, i):]
    return bytes(data)
seeds = [open(f, 'rb').read() for f in sys.argv[1:]]
rng, opened, refused, marks = random.Random(5), 0, 0, []
for i in range(10_000):
    if i % 2500 == 1250: marks.append(resident())
    try: assert load_square(mutated(rng, seeds[i % len(seeds)]), 48).shape == (48, 48, 3); opened += 1
    except ImageError as e: assert str(e); refused += 1
print(opened, refused, max(marks[1:]) - marks[0])
'''

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='memory is read from /proc')
def test_ten_thousand_mutated_images(tmp_path):
    "No crash, no other error, no leak"
    names = [tmp_path/f'{i}' for i,_ in enumerate(SEEDS)]
    for f, data in zip(names, SEEDS): f.write_bytes(data)
    out = subprocess.run([sys.executable, '-c', FUZZ, *map(str, names)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    opened, refused, grown = map(float, out.stdout.split())
    assert opened + refused == 10_000 and min(opened, refused) > 1000 and grown < 30


COST = '''
import sys, time
import numpy as np
from PIL import Image
from bear_classifier.core import ImageError, open_image
Image.preinit(); Image.init(); open_image(np.zeros((1500, 1500, 3), np.uint8))
def peak(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024
for f in sys.argv[1:]:
    open('/proc/self/clear_refs', 'w').write('5'); before = peak()
    try: open_image(f)
    except ImageError: pass
    print(round(peak() - before, 1))
'''


def cost(files):
    "Megabytes that opening each file adds to a process"
    out = subprocess.run([sys.executable, '-c', COST, *map(str, files)], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(files, map(float, out)))


can_measure = pytest.mark.skipif(not os.access('/proc/self/clear_refs', os.W_OK), reason='peak memory is read from /proc')


@can_measure
def test_no_file_costs_more_than_150_mb(tmp_path):
    "The largest of each kind that is accepted, and larger ones that are refused"
    big = picture(4000, 3000)
    kinds = dict(png=('PNG', dict(compress_level=1)), webp=('WEBP', dict(method=0)), lossless=('WEBP', dict(lossless=True, method=0, quality=0)), avif=('AVIF', dict(speed=10)),
                 gif=('GIF', {}), bmp=('BMP', {}), jpg=('JPEG', {}), p444=('JPEG', dict(progressive=True, subsampling=0)))
    for k,(fmt,kw) in kinds.items(): big.save(tmp_path/k, fmt, **kw)
    picture(6800, 4900).save(tmp_path/'png33', 'PNG', compress_level=1)
    picture(6800, 4900).save(tmp_path/'p33', 'JPEG', progressive=True)
    exif = Image.Exif(); exif[0x0112] = 6
    Image.new('L', (40_000, 400)).save(tmp_path/'strip', 'PNG', exif=exif)
    (tmp_path/'scans').write_bytes(in_three_scans(4700, 4700))
    big.resize((6500, 4900)).convert('RGBA').save(tmp_path/'rgba32', 'PNG', compress_level=1)
    assert {k.name: v for k,v in cost(sorted(tmp_path.iterdir())).items() if v > 150} == {}


def test_a_prediction_without_its_table_can_be_shown():
    assert 'Black bear' in repr(Prediction('black', 'black', .9)) and Prediction('unsure', 'black', .4).sentence() == 'Not sure: black bear?'


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    file = tmp_path/'current'
    write_atomic(file, 'v1')
    class Dies(str):
        def encode(self, *a): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): write_atomic(file, Dies('v2'))
    assert file.read_text() == 'v1' and [p.name for p in tmp_path.iterdir()] == ['current']


def test_lines_survive_a_torn_one(tmp_path):
    log = tmp_path/'log.jsonl'
    for i in range(3): append_line(log, dict(i=i, text='bär\n'))
    with log.open('ab') as f: f.write(b'{"i": 3, "te')
    append_line(log, dict(i=4))
    assert [o['i'] for o in read_lines(log)] == [0, 1, 2, 4]


def test_a_folder_lists_nothing_outside_it(tmp_path):
    (tmp_path/'in').mkdir(); (tmp_path/'out.jpg').write_bytes(b'x')
    for n in ('b.jpg', 'a.jpg?w=3', 'notes.csv', '.hidden'): (tmp_path/'in'/n).write_bytes(b'x')
    (tmp_path/'in'/'.trash').mkdir(); (tmp_path/'in'/'.trash'/'c.jpg').write_bytes(b'x')
    (tmp_path/'in'/'link.jpg').symlink_to(tmp_path/'out.jpg')
    assert [p.name for p in image_files(tmp_path/'in')] == ['a.jpg?w=3', 'b.jpg']
    with pytest.raises(DataError, match='gather'): image_files(tmp_path/'nowhere')


@needs_photos
def test_awkward_photographs_open_upright_and_in_their_colours():
    files = list(csv.DictReader(open(PHOTOS/'awkward'/'index.csv')))
    assert len(files) > 15
    for row in files:
        f = PHOTOS/'awkward'/row['file']
        with Image.open(f) as raw:
            raw.seek(0)
            want = ImageOps.exif_transpose(raw).convert('RGBA')
        want = Image.alpha_composite(Image.new('RGBA', want.size, 'white'), want).convert('RGB')
        im = open_image(f)
        assert abs(im.width/im.height - want.width/want.height) < .02, row
        assert apart(prepare(im, 128), prepare(want, 128)) < 3, row


@needs_photos
def test_broken_files_say_why():
    files = sorted((PHOTOS/'broken').iterdir())
    said = []
    for f in files:
        with pytest.raises(ImageError) as e: open_image(f)
        said.append(str(e.value))
    assert all(any(w in o for w in ('web page', 'text', 'empty')) for o in said), said


@needs_photos
@can_measure
def test_awkward_photographs_cost_little():
    files = sorted(p for p in (PHOTOS/'awkward').rglob('*') if p.is_file()) + sorted((PHOTOS/'broken').iterdir())
    assert {k.name: v for k,v in cost(files).items() if v > 150} == {}
