"Package metadata, read from settings.ini"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
extras = {k: cfg[f'{k}_requirements'].split() for k in ('train', 'search', 'api', 'dev')}
extras['dev'] = sorted({r for rs in extras.values() for r in rs})

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], keywords=cfg['keywords'].split(),
    license='Apache-2.0', license_files=['LICENSE'], python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(), extras_require=extras,
    # The app notebook lives in nbs/ and travels as a package of its own, so that a wheel can serve it
    packages=['bear_classifier', 'bear_classifier.nbs'], package_dir={'bear_classifier.nbs': cfg['nbs_path']},
    package_data={'bear_classifier': ['bundles/*/*', 'static/*'], 'bear_classifier.nbs': ['bear_app.ipynb']},
    include_package_data=False, zip_safe=False,
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['bear_classifier=bear_classifier._modidx:d']})
