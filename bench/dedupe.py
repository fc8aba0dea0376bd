"""Near-duplicate groups: how the time grows to 100,000 hashes, and how many planted copies are found.

Growth: hashes of chance, a tenth of them copies with four flipped bits, against comparing all pairs with numpy, row by row.
Quality: drawn bears (or real photographs, with --photos FOLDER) and copies of each: re-encoded, rescaled, both, cropped by 5%, watermarked,
mirrored. Recall counts re-encoded and rescaled copies; precision counts every pair that is found, and a pair of two different pictures is wrong."""
import argparse, io, json, os, platform, tempfile, time
from pathlib import Path
import numpy as np
from PIL import ImageDraw, ImageOps
from bear_classifier.core import image_files, open_image
from bear_classifier.gather import look_alike, near_groups, near_pairs, phash

def hashes(n, seed=0):
    "n hashes of chance, of which a tenth are copies"
    rng = np.random.default_rng(seed)
    h = rng.integers(0, 2**64, n, dtype=np.uint64)
    k = n // 10
    for _ in range(4): h[-k:] = (h[:k] if _ == 0 else h[-k:]) ^ (np.uint64(1) << rng.integers(0, 64, k, dtype=np.uint64))
    return [int(o) for o in h]

def all_pairs(h, d):
    "The plain way: each hash against all that follow"
    h = np.array(h, np.uint64)
    return sum(int((np.bitwise_count(h[i] ^ h[i+1:]) <= d).sum()) for i in range(len(h)))

def timed(f, *args):
    start = time.perf_counter(); out = f(*args)
    return time.perf_counter() - start, out

def jpeg(im, quality): 
    f = io.BytesIO(); im.save(f, 'JPEG', quality=quality)
    return f.getvalue()

def plant(im):
    "The copies that the web makes of a picture, and some it makes less often"
    w, h = im.size
    mark = im.copy(); ImageDraw.Draw(mark).text((w*.1, h*.85), '(c) picture agency', fill='white', font_size=max(10, w//16))
    x, y = max(1, round(w*.025)), max(1, round(h*.025))
    return dict(original=jpeg(im, 95), reencoded=jpeg(im, 50), rescaled=jpeg(im.resize((w//2, h//2)), 90), both=jpeg(im.resize((int(w*.4), int(h*.4))), 40),
        cropped=jpeg(im.crop((x, y, w-x, h-y)), 90), watermarked=jpeg(mark, 90), mirrored=jpeg(ImageOps.mirror(im), 90))

def quality(images, d):
    names, found, kinds, files = [], [], [], []
    for i,im in enumerate(images):
        for kind,data in plant(im).items(): names.append(i); kinds.append(kind); files.append(data); found.append(phash(data))
    pairs = np.array([(i, j) for i,j in near_pairs(found, d).tolist() if look_alike(files[i], files[j])])
    right = sum(names[i] == names[j] for i,j in pairs)
    close = {(i, j) for i,j in pairs.tolist()}
    def recall(kind):
        at = [(k, k + kinds[k:k+7].index(kind)) for k in range(0, len(kinds), 7)]
        return sum(o in close for o in at) / len(at)
    each = {k: round(recall(k), 3) for k in kinds[1:7]}
    return dict(precision=round(right / max(1, len(pairs)), 4), recall=round(float(np.mean([each[k] for k in ('reencoded', 'rescaled', 'both')])), 4), recall_of=each, pictures=len(images),
        pairs_of_different_pictures=len({tuple(sorted((names[i], names[j]))) for i,j in pairs if names[i] != names[j]}))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='a small version, in seconds')
    p.add_argument('--photos', help='a folder of photographs to plant copies of, instead of drawn bears')
    p.add_argument('--distance', type=int, default=7, help='bits that may differ')
    a = p.parse_args()
    ours, theirs = {}, {}
    near_groups([0], 0)  # imports are not counted
    for name, n in (('1k', 1000), ('10k', 2000 if a.quick else 10_000), ('100k', 5000 if a.quick else 100_000)):
        h = hashes(n)
        seconds, groups = timed(near_groups, h, a.distance)
        ours[f'seconds_{name}'], ours[f'groups_{name}'] = round(seconds, 3), int(groups.max()) + 1
        if n <= 10_000:
            theirs[f'seconds_{name}'], n_pairs = timed(all_pairs, h, a.distance)
            theirs[f'seconds_{name}'] = round(theirs[f'seconds_{name}'], 3)
            assert n_pairs == len(near_pairs(h, a.distance)), 'the index and the plain way must agree'
    with tempfile.TemporaryDirectory() as tmp:
        if not a.photos:
            from bear_classifier.practice import practice_dataset
            practice_dataset(Path(tmp)/'drawn', 4 if a.quick else 40)
        images = [open_image(o, None) for o in image_files(a.photos or Path(tmp)/'drawn')]
    ours |= quality(images, a.distance)
    print(json.dumps(dict(bench='dedupe', ours=ours, theirs=theirs, ratio=dict(speed_10k=round(theirs['seconds_10k'] / ours['seconds_10k'], 1)),
        machine=dict(cpus=os.cpu_count(), python=platform.python_version(), system=platform.system()))))

if __name__ == '__main__': main()
