"""Build the shipped prototype set from the font packages of Debian's main archive.

    python fonts/build.py SCRATCH [--download]

SCRATCH receives the unpacked packages (about 3 GB). With --download, `apt-get download` fetches the packages to
SCRATCH/debs first, which needs a Debian system with its package lists; otherwise they must already be there.
"""

import argparse
import csv
import gzip
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont

from hlf_np.data.fonts.rendering import build_prototypes, find_files, write_prototypes
from hlf_np.data.fonts.selection import Face, family_key
from hlf_np.report.figures.sheets import contact_sheet

HERE = Path(__file__).parent
FACES = 1000
MAX_FACES_PER_FAMILY = 8
SHEET_ROWS = 100  # faces per column of the contact sheet

TEX = "texlive-fonts-extra"
SKIPPED_TEX_FONTS = {
    "atkinson": "its licence forbids changes",
    "countriesofeurope": "maps, not letters",
    "drm": "one design under about twenty family names, which the limit per family would not catch",
    "fontawesome5": "icons",
    "ocr-b-outline": "its licence is unclear",
}
PACKAGES = re.findall(
    r"\S+",
    """
    fonts-3270 fonts-adf-accanthis fonts-adf-baskervald fonts-adf-berenis fonts-adf-gillius
    fonts-adf-ikarius fonts-adf-irianis fonts-adf-libris fonts-adf-mekanus fonts-adf-oldania
    fonts-adf-romande fonts-adf-switzera fonts-adf-tribun fonts-adf-universalis fonts-adf-verana
    fonts-aenigma fonts-agave fonts-alee fonts-allerta fonts-amiga fonts-ancient-scripts
    fonts-anonymous-pro fonts-apropal fonts-arabeyes fonts-arapey fonts-arkpandora fonts-arphic-gbsn00lp
    fonts-arphic-gkai00mp fonts-averia-gwf fonts-averia-sans-gwf fonts-averia-serif-gwf fonts-b612
    fonts-babelstone-modern fonts-baekmuk fonts-beng-extra fonts-beteckna fonts-bpg-georgian fonts-breip
    fonts-bwht fonts-cantarell fonts-cegui fonts-century-catalogue fonts-clear-sans fonts-cmu
    fonts-comfortaa fonts-comic-neue fonts-compagnon fonts-courier-prime fonts-croscore
    fonts-crosextra-caladea fonts-crosextra-carlito fonts-cwtex-yen fonts-dancingscript
    fonts-dejavu-extra fonts-dkg-handwriting fonts-dosis fonts-dustin fonts-ebgaramond-extra fonts-eeyek
    fonts-elstob fonts-engadget fonts-essays1743 fonts-eurofurence fonts-fantasma fonts-fantasque-sans
    fonts-ferrite-core fonts-firacode fonts-freefont-ttf fonts-gemunu-libre fonts-georgewilliams
    fonts-gfs-artemisia fonts-gfs-didot fonts-gfs-neohellenic fonts-gfs-theokritos fonts-go
    fonts-gotico-antiqua fonts-hack fonts-horai-umefont fonts-hosny-amiri fonts-hosny-thabit
    fonts-humor-sans fonts-inconsolata fonts-inter fonts-ipafont-gothic fonts-ipafont-mincho
    fonts-jetbrains-mono fonts-johnsmith-induni fonts-jsmath fonts-junicode fonts-jura
    fonts-kanjistrokeorders fonts-karla fonts-katex fonts-khmeros fonts-klaudia-berenika fonts-komatuna
    fonts-kouzan-mouhitsu fonts-lato fonts-league-mono fonts-league-spartan fonts-leckerli-one
    fonts-lemonada fonts-levien-museum fonts-lg-aboriginal fonts-lindenhill fonts-linex
    fonts-linuxlibertine fonts-lmodern fonts-lobster fonts-manchufont fonts-manrope fonts-meera-inimai
    fonts-migmix fonts-millimetre fonts-misaki fonts-monofur fonts-monoid fonts-mononoki
    fonts-morisawa-bizud-gothic fonts-morisawa-bizud-mincho fonts-mplus fonts-myanmar fonts-nanum
    fonts-nanum-eco fonts-nanum-extra fonts-national-park fonts-naver-d2coding fonts-noto-extra
    fonts-noto-mono fonts-ocr-a fonts-okolaks fonts-open-sans fonts-opendyslexic
    fonts-oradano-mincho-gsrr fonts-osifont fonts-oxygen fonts-paratype fonts-pc fonts-play fonts-povray
    fonts-prociono fonts-proggy fonts-quattrocento fonts-quicksand fonts-radisnoir
    fonts-ricty-diminished fonts-rit-sundar fonts-roadgeek fonts-roboto-fontface fonts-roboto-slab
    fonts-roboto-unhinted fonts-routed-gothic fonts-sambhota-yigchung fonts-sawarabi-mincho
    fonts-sil-akatab fonts-sil-andika fonts-sil-galatia fonts-sil-gentium fonts-sil-gentiumplus
    fonts-sil-lateef fonts-sil-mondulkiri fonts-sil-scheherazade fonts-sil-shimenkan-taogu
    fonts-sil-tagmukay fonts-sixtyfour fonts-smc-gayathri fonts-smc-karumbi fonts-smc-keraleeyam
    fonts-smc-manjari fonts-smc-rachana fonts-smc-suruma fonts-smc-uroob fonts-solide-mirage fonts-sora
    fonts-spleen fonts-staypuft fonts-taml-tscu fonts-teluguvijayam fonts-texgyre fonts-tiresias
    fonts-tlwg-garuda-otf fonts-tlwg-garuda-ttf fonts-tlwg-kinnari-otf fonts-tlwg-kinnari-ttf
    fonts-tlwg-laksaman-otf fonts-tlwg-laksaman-ttf fonts-tlwg-loma-otf fonts-tlwg-loma-ttf
    fonts-tlwg-norasi-otf fonts-tlwg-norasi-ttf fonts-tlwg-purisa-ttf fonts-tlwg-sawasdee-otf
    fonts-tlwg-sawasdee-ttf fonts-tlwg-umpush-otf fonts-tlwg-umpush-ttf fonts-tlwg-waree-otf
    fonts-tlwg-waree-ttf fonts-train fonts-tuffy fonts-ukij-uyghur fonts-unfonts-core
    fonts-unfonts-extra fonts-uralic fonts-urw-base35 fonts-vollkorn fonts-woowa-bm
    fonts-yanone-kaffeesatz fonts-yrsa-rasa fonts-yusei-magic texlive-fonts-extra
    """,
)

# The first pattern that occurs in a text determines its licence.
LICENCES = {
    r"open.font.licen[cs]e|\bOFL\b": "OFL-1.1",
    r"apache": "Apache-2.0",
    r"\bGUST\b|\bgf?sl\b|\bgfl\b": "GUST-Font-License",
    r"\bLPPL|latex project public": "LPPL",
    r"bitstream vera": "Bitstream-Vera",
    r"arphic public": "Arphic-1999",
    r"\bLGPL|lesser general public": "LGPL",
    r"\bAGPL|affero": "AGPL",
    r"\bGPL.{0,400}exception|general public.{0,400}exception": "GPL with font exception",
    r"\bGPL|general public": "GPL",
    r"\bCC0\b|creative commons zero": "CC0-1.0",
    r"by-sa|attribution-sharealike": "CC-BY-SA",
    r"public.domain": "public domain",
    r"\bMIT\b|permission is hereby granted, free of charge": "MIT",
    r"madduck-special": "free with attribution",
    r"^Original$": "free without conditions",
}


# Only faces under these licences are used: none of them asks that what is made from a font be licensed as the font is.
ACCEPTED = {
    "OFL-1.1", "Apache-2.0", "MIT", "BSD-2-clause", "BSD-3-clause", "CC0-1.0", "public domain", "Bitstream-Vera",
    "ParaType-Free-Font-License", "GUST-Font-License", "LPPL", "GPL with font exception", "free with attribution",
    "free without conditions",
}  # fmt: skip


def licence_in_text(text: str) -> str | None:
    """Return the short name of the licence that a text mentions."""
    for pattern, name in LICENCES.items():
        if re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return name
    return None


def licence_of_face(path: Path, index: int, package: str, root: Path, tex_licences: dict[str, str]) -> str:
    """Return the licence of a face as stated in the font's name table, else in its package.

    Parameters
    ----------
    path, index : Path, int
        The font file, and the face's index in it.
    package : str
        Name of its Debian package.
    root : Path
        Folder of the unpacked package.
    tex_licences : dict of str to str
        Licence tags of TeX Live, see `read_tex_licences`.
    """
    table = TTFont(path, fontNumber=index, lazy=True)["name"]
    licence, address, copyright_notice = (table.getDebugName(number) or "" for number in (13, 14, 0))
    stated = licence_in_text(f"{licence} {address}") or licence_in_text(copyright_notice)
    if stated:
        return stated
    if package == TEX:
        tex_package = path.parent.name
        tag = tex_licences.get(tex_package, "")
        return licence_in_text(tag) or f"other free (TeX package {tex_package})"
    text = (root / "usr/share/doc" / package / "copyright").read_text(errors="replace")
    tag_line = re.search(r"^Files:\s*\*.*?^License:\s*(\S.*?)\s*$", text, re.MULTILINE | re.DOTALL)
    if tag_line:
        return licence_in_text(tag_line[1]) or tag_line[1]
    return licence_in_text(text) or "see the package's copyright file"


def read_tex_licences(root: Path) -> dict[str, str]:
    """Read the licence tags of TeX Live's packages, by font directory."""
    tags, licences = "", {}
    with gzip.open(root / f"usr/share/doc/{TEX}/Licenses.gz", "rt") as lines:
        for line in lines:
            if header := re.match(r"\S+: (.*)", line):
                tags = header[1]
            elif entry := re.search(r"/fonts/(?:opentype|truetype)/[^/]+/([^/]+)/", line):
                licences[entry[1]] = tags
    return licences


def unpack(scratch: Path) -> dict[str, str]:
    """Unpack the packages below the scratch directory and return their versions."""
    versions = {}
    for package in PACKAGES:
        (archive,) = (scratch / "debs").glob(f"{package}_*.deb")
        field = subprocess.run(["dpkg-deb", "--field", archive, "Version"], check=True, capture_output=True, text=True)
        versions[package] = field.stdout.strip()
        if not (scratch / package).is_dir():
            subprocess.run(["dpkg-deb", "--extract", archive, scratch / package], check=True)
    return versions


def font_directories(scratch: Path) -> list[Path]:
    """List the directories to search: the packages, and the font directories of TeX Live."""
    tex = [
        directory
        for kind in ("opentype", "truetype")
        for directory in (scratch / TEX / "usr/share/texlive/texmf-dist/fonts" / kind).glob("*/*")
        if directory.is_dir() and directory.name not in SKIPPED_TEX_FONTS
    ]
    return tex + [scratch / package for package in PACKAGES if package != TEX]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scratch", type=Path, help="directory for the unpacked packages (about 3 GB)")
    parser.add_argument("--download", action="store_true", help="fetch the packages with apt-get first")
    arguments = parser.parse_args()
    scratch = arguments.scratch.resolve()
    if arguments.download:
        (scratch / "debs").mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", *PACKAGES], check=True, cwd=scratch / "debs")
    versions = unpack(scratch)
    tex_licences = read_tex_licences(scratch / TEX)

    def package_of(path: Path) -> str:
        return path.relative_to(scratch).parts[0]

    def licence_of(path: Path, index: int = 0) -> str:
        package = package_of(path)
        return licence_of_face(path, index, package, scratch / package, tex_licences)

    directories = font_directories(scratch)
    with (HERE / "EXCLUDED.csv").open() as table:
        excluded = {row["file"] for row in csv.DictReader(table)}
    excluded |= {path.name for path in find_files(directories) if licence_of(path) not in ACCEPTED}
    faces, rejected = build_prototypes(directories, faces=FACES, per_family=MAX_FACES_PER_FAMILY, excluded=excluded)

    def origin(face: Face) -> dict[str, str]:
        package = package_of(face.path)
        return {"licence": licence_of(face.path, face.index), "package": package, "version": versions[package]}

    write_prototypes(faces, HERE / "prototypes.npz", manifest=HERE / "MANIFEST.csv", extra_columns=origin)
    images = np.stack([face.images for face in faces])
    contact_sheet(images, SHEET_ROWS).save(HERE / "contact_sheet.png", optimize=True)
    families = len({family_key(face.family) for face in faces})
    print(f"{len(faces)} faces of {families} families; {len(rejected)} faces rejected:")
    details = re.compile(r"\(.*\)|like .*|letter \w |^\w and \w |^\d+ of 10 ")
    reasons = Counter(details.sub("", rejection.reason) for rejection in rejected)
    for reason, count in reasons.most_common():
        print(f"{count:6d} {reason}")


if __name__ == "__main__":
    main()
