"""How many of the wrong images stand among the first 10% and 20% of three orders: the chapter's, cleanlab's and ours.

The chapter ranks by the loss of the network that it has just fine-tuned on the very same images (resnet18 there; `--arch` here, so
that weights from ImageNet are at hand). cleanlab ranks out-of-fold probabilities of a linear head. Each side's seconds hold all it needs
from the files on: features and cross-validation for cleanlab and ours, fine-tuning for the chapter. No side is told what is wrong.

--data has one folder a class and known_noise.csv (column `file`); without it the noisy part is drawn too. The planted part takes a
clean dataset, swaps labels and slips strangers in. --quick: small drawings, the practice body, and a head instead of fine-tuning."""
import argparse, csv, json, os, platform, random, shutil, statistics, sys, tempfile, time, warnings
from pathlib import Path

def plant(dest, clean, strangers, share, seed):
    "Copy `clean`, swap a share of the labels, slip as many strangers in; give the relative paths of what is wrong"
    from bear_classifier.core import image_files
    rng, files = random.Random(seed), image_files(clean)
    classes, wrong = sorted({p.parent.name for p in files}), set()
    n = max(3, round(len(files) * share))
    swapped = set(rng.sample(files, n))
    for p in files + rng.sample(sorted(strangers), min(n, len(strangers))):
        bad = p in swapped or p not in set(files)
        label = p.parent.name if not bad else rng.choice([c for c in classes if c != p.parent.name])
        to = dest/label/f'{p.parent.name}-{p.name}' if bad else dest/label/p.name
        to.parent.mkdir(parents=True, exist_ok=True); shutil.copy(p, to)
        if bad: wrong.add(to.relative_to(dest).as_posix())
    return wrong

def recalls(order, wrong):
    return {f'recall{q}': round(sum(p in wrong for p in order[:round(len(order)*q/100)]) / len(wrong), 3) for q in (10, 20)}

def listed(root):
    from bear_classifier.core import image_files
    root = root.resolve()
    return [p for p in image_files(root) if p.parent != root], lambda p: p.relative_to(root).as_posix()

def chapter(root, args):
    "Fine-tune on all images but a fifth, then sort both parts together by loss, as its cleaner does part by part"
    import numpy as np
    from fastai.vision.all import CategoryBlock, CrossEntropyLossFlat, DataBlock, ImageBlock, RandomResizedCrop, RandomSplitter, Learner, accuracy, aug_transforms, parent_label, set_seed
    from bear_classifier.train import bear_net, bear_splitter
    paths, name = listed(root)
    set_seed(args.seed, reproducible=True)
    size, arch, epochs = (64, 'bearnet_small', 1) if args.quick else (224, args.arch, 4)
    block = DataBlock((ImageBlock, CategoryBlock), splitter=RandomSplitter(.2, seed=42), get_y=parent_label, get_items=lambda o: paths,
                      item_tfms=RandomResizedCrop(size, min_scale=.5), batch_tfms=aug_transforms())
    dls = block.dataloaders(root, bs=min(32, len(paths)//4), num_workers=0)
    learn = Learner(dls, bear_net(arch, len(dls.vocab), not args.quick, size), loss_func=CrossEntropyLossFlat(), metrics=[accuracy], splitter=bear_splitter)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs)
        test = learn.dls.test_dl(paths, with_labels=True, shuffle=False)
        loss = learn.get_preds(dl=test, with_loss=True)[2]
    return [name(paths[i]) for i in np.argsort(-loss.numpy(), kind='stable')]

def body(args):
    if args.quick: from bear_classifier.infer import BearClassifier; return BearClassifier.practice()
    from bear_classifier.train import bear_net
    return bear_net(args.arch)

def cleanlab(root, args):
    import numpy as np
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from bear_classifier.clean import _features
    paths, name = listed(root)
    f, y = _features(body(args), paths), np.unique([name(p).split('/')[0] for p in paths], return_inverse=True)[1]
    probs = cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression(C=.01, max_iter=500)), f, y, cv=5, method='predict_proba')
    return [name(paths[i]) for i in np.argsort(get_label_quality_scores(y, probs), kind='stable')]

def ours(root, args):
    from bear_classifier.clean import rank_images
    return rank_images(root, body(args)).path.tolist()

def measure(sets, args):
    "Recall of each side, averaged over the sets, and its mean seconds"
    sides = dict(ours=ours, theirs=chapter, cleanlab=cleanlab)
    got = {k: [] for k in sides}
    for root, wrong in sets:
        for k, side in sides.items():
            with tempfile.TemporaryDirectory() as cache:  # nobody finds another's features
                os.environ['BEAR_CACHE'] = cache
                start = time.perf_counter(); order = side(root, args); took = time.perf_counter() - start
            got[k].append(dict(recalls(order, wrong), seconds=round(took, 2)))
            print(k, got[k][-1], file=sys.stderr, flush=True)
    return {k: {m: round(statistics.mean(o[m] for o in v), 3) for m in v[0]} for k, v in got.items()}

def known(root):
    with open(root/'known_noise.csv', newline='', encoding='utf-8') as f: return {r['file'] for r in csv.DictReader(f)}

def copied(dest, source):
    "The images alone, so that no side can read the answers"
    for p in source.rglob('*'):
        if p.is_file() and p.parent != source: (dest/p.relative_to(source)).parent.mkdir(parents=True, exist_ok=True); shutil.copy(p, dest/p.relative_to(source))
    return dest

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, help='a noisy dataset with known_noise.csv; the default is BEAR_PHOTOS/noisy')
    p.add_argument('--clean', type=Path, help='a clean dataset to plant errors in; the default is BEAR_PHOTOS/bears, else drawings')
    p.add_argument('--strangers', type=Path, help='images that belong to no class; the default is BEAR_PHOTOS/ood, else drawings')
    p.add_argument('--arch', default='mobilenet_v2', help='body with weights from ImageNet')
    p.add_argument('--share', type=float, default=.04, help='of the labels to swap; as many strangers come in')
    p.add_argument('--repeat', type=int, default=1, help='planted sets to average over')
    p.add_argument('--seed', type=int, default=42)
    p.add_argument('--quick', action='store_true', help='small drawings, in seconds')
    args = p.parse_args()
    warnings.filterwarnings('ignore')
    import torch; torch.set_num_threads(min(2, os.cpu_count()))
    import bear_classifier.clean, bear_classifier.train, bear_classifier.infer, cleanlab.rank, sklearn.pipeline  # imports are nobody's seconds
    from bear_classifier.core import image_files
    from bear_classifier.practice import practice_dataset, practice_outsiders
    photos = None if args.quick else os.environ.get('BEAR_PHOTOS')
    home = args.data or photos and Path(photos)/'noisy'
    with tempfile.TemporaryDirectory() as tmp:
        tmp, n, size = Path(tmp), 12 if args.quick else 120, 96 if args.quick else 256
        drawn = practice_dataset(tmp/'drawn', n, size=size, seed=args.seed)
        odd = image_files(practice_outsiders(tmp/'odd', max(8, n//4), size=size, seed=args.seed))
        noisy = [(copied(tmp/'noisy', home), known(home))] if home else [(tmp/'noisy', plant(tmp/'noisy', drawn, odd, args.share, args.seed + 1))]
        clean = args.clean or (Path(photos)/'bears' if photos else drawn)
        strangers = image_files(args.strangers or Path(photos)/'ood') if args.strangers or photos else odd
        sets = [(tmp/f'planted{i}', plant(tmp/f'planted{i}', clean, strangers, args.share, args.seed + i)) for i in range(args.repeat)]
        a, b = measure(noisy, args), measure(sets, args)
    def over(x, y): return round(x / y, 2) if y else None
    def ratio(o): return {k: over(o['ours'][k], o['theirs'][k]) for k in ('recall10', 'recall20')} | dict(speed=over(o['theirs']['seconds'], o['ours']['seconds']))
    print(json.dumps(dict(bench='clean', **a, ratio=ratio(a), planted=dict(b, ratio=ratio(b)), on='photographs' if home else 'drawings',
                          machine=dict(cpus=os.cpu_count(), python=platform.python_version(), system=platform.system()))))

if __name__ == '__main__': main()
