"Every bench still runs, small, and prints the keys it promises; nothing here looks at the clock"
import json, subprocess, sys
from pathlib import Path

import pytest
import serving

ROOT = Path(__file__).resolve().parent.parent
KEYS = dict(gather=['ratio.speed', 'ours.failed_named', 'theirs.failed_named'], dedupe=['ours.precision', 'ours.recall'],
            train=['ratio.speed', 'ours.error', 'theirs.error', 'ours.finetune_error', 'ours.finetune_seconds'],
            predict=['ratio.small', 'ratio.large', 'ratio.load', 'ratio.memory', 'ratio.batch', 'ours.over_limit'],
            clean=['ours.recall10', 'ours.recall20', 'theirs.recall10', 'cleanlab.recall10', 'planted.ours.recall10'],
            review=['ours.few', 'ours.many', 'ratio.many'], app=['ratio.ready', 'ratio.memory', 'ratio.answer'], load_app=['ours.asked', 'ours.answered', 'ours.errors', 'ours.p99_ms'],
            load_api=['ours.asked', 'ours.answered', 'ours.errors', 'ours.refused', 'ours.p50_ms', 'ours.p99_ms', 'ours.per_second', 'ours.share_of_model'])


def pick(o, path):
    for k in path.split('.'): o = o[k]
    return o


@pytest.mark.parametrize('name', sorted(p.stem for p in (ROOT/'bench').glob('*.py') if not p.stem.startswith('_')))
def test_bench_runs(name):
    if name in ('app', 'load_app', 'review') and not serving.CHROMIUM: pytest.skip('no Chromium here to open the page with')
    out = subprocess.run([sys.executable, ROOT/'bench'/f'{name}.py', '--quick'], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert out.returncode == 0, out.stderr[-3000:]
    line = json.loads(out.stdout.strip().splitlines()[-1])
    assert line['bench'] == name and 'machine' in line and 'ratio' in line
    for k in KEYS.get(name, []): assert pick(line, k) is not None, k
