#!/usr/bin/env python3
"""Makes data/domains/: texts of eight domains, for data sets whose expert load shifts.

usage: tools/make_domain_texts.py SOURCES OUTPUT

SOURCES is a folder with the three packages below; data/domains/README.md names their licences.
Nothing is downloaded here and CI does not run this: the texts are in the repository. To get them:

    pip download --no-deps --dest SOURCES django==5.2.19 horizon==27.0.0
    cd SOURCES && apt-get download apache2-doc         # Debian 12: 2.4.71-1~deb12u1

Each OUTPUT/DOMAIN.json is a list of texts. The same packages give the same bytes.
"""

import ast
import html
import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

TEXTS = 20  # of a domain

# Characters of a text: enough for 300 tokens of models/dsv3-tiny, whose tokens are longest in code
# and in English.
LENGTH = {
    "english": 1600, "german": 1300, "french": 1300, "spanish": 1300, "russian": 1150,
    "japanese": 650, "chinese": 500, "python": 1400,
}


class SourceError(Exception):
    """A package is missing or is not what it should be."""


def find_package(folder, pattern):
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SourceError(f"{folder}: holds {len(found)} files {pattern}, must be one "
                          "(see the head of this script)")
    return found[0]


def pack(pieces, length, joint):
    """Joins neighbouring pieces into texts of at least `length` characters."""
    texts, text = [], ""
    for piece in pieces:
        text = text + joint + piece if text else piece
        if len(text) >= length:
            texts.append(text)
            text = ""
    return texts


def spread(texts, count, domain):
    """`count` of the texts, evenly over all of them, so that no page dominates."""
    if len(texts) < count:
        raise SourceError(f"{domain}: {len(texts)} texts, {count} are needed")
    return [texts[i * len(texts) // count] for i in range(count)]


# --- Paragraphs of the manual of Apache httpd --------------------------------------------------


def debian_files(package):
    """(name, bytes) of the regular files of a .deb, by the name."""
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True,
                          stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = sorted((m for m in archive.getmembers() if m.isfile()), key=lambda m: m.name)
        return [(m.name, archive.extractfile(m).read()) for m in members]


def paragraphs(page, shortest):
    """The running text of a page: its paragraphs, without markup, examples and navigation."""
    for body in re.findall(r"<p>(.*?)</p>", page, re.S):
        text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", body))).strip()
        # A paragraph of the text ends as a sentence does; what does not is a list, code or a link.
        if len(text) >= shortest and text[-1] in ".!?:。":
            yield text


def is_english(text):
    """Translated pages have paragraphs that nobody has translated yet."""
    words = text.lower().split()
    return sum(word in ("the", "of", "is", "to", "and") for word in words) > 0.05 * len(words)


def manual_texts(files, language, length):
    texts = []
    seen = set()  # notes stand on many pages
    shortest = 30 if language == "ja" else 80
    for name, data in files:
        if f"/manual/{language}/" not in name or not name.endswith(".html"):
            continue
        page = data.decode("utf-8", errors="replace")
        if f'lang="{language}"' not in page[:500]:
            continue
        fresh = [text for text in dict.fromkeys(paragraphs(page, shortest))
                 if text not in seen and "|" not in text and is_english(text) == (language == "en")]
        seen.update(fresh)
        texts += pack(fresh, length, "\n\n")
    return texts


# --- Sentences of translations ---------------------------------------------------------------


def po_entries(text):
    """The translations (msgstr) of a .po file in their order."""
    entry = None
    for line in text.splitlines():
        start = re.match(r'(msgid|msgid_plural|msgctxt|msgstr(?:\[\d\])?) "(.*)"$', line)
        if start:
            if entry and entry[0].startswith("msgstr"):
                yield entry[1]
            entry = [start[1], start[2]]
        elif line.startswith('"') and entry:
            entry[1] += line[1:-1]
        elif line.startswith("#") and entry:
            if entry[0].startswith("msgstr"):
                yield entry[1]
            entry = None
    if entry and entry[0].startswith("msgstr"):
        yield entry[1]


def translations(wheels, language, shortest):
    """Sentences without markup, place holders and links, each once."""
    seen = set()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if f"/locale/{language}/" not in name or not name.endswith(".po"):
                    continue
                for text in po_entries(archive.read(name).decode()):
                    text = text.replace('\\"', '"').replace("\\n", " ")
                    text = re.sub(r"\s+", " ", text).strip()
                    if (len(text) < shortest or text in seen or text[-1] not in ".!?。！？"
                            or re.search(r"[%{<&\\]|://|\[\[", text)):
                        continue
                    seen.add(text)
                    yield text


# --- Python ------------------------------------------------------------------------------------


def python_texts(wheel, length):
    """Functions and classes of Django's modules, with what stands between them."""
    texts = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".py") or "/locale/" in name or not name.startswith("django/"):
                continue
            source = archive.read(name).decode()
            lines = source.splitlines()
            starts = [node.lineno - 1 for node in ast.parse(source).body
                      if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
            pieces = ["\n".join(lines[a:b]).strip("\n")
                      for a, b in zip(starts, starts[1:] + [len(lines)])]
            # Long classes are cut at a line: a prompt need not end where a function does.
            texts += [text[:text.rindex("\n", 0, 2 * length)] if len(text) > 2 * length else text
                      for text in pack(pieces, length, "\n\n\n")]
    return texts


def make_texts(sources):
    """{domain: [texts]}, TEXTS each."""
    django = find_package(sources, "[dD]jango-*.whl")
    horizon = find_package(sources, "horizon-*.whl")
    manual = debian_files(find_package(sources, "apache2-doc_*.deb"))
    pools = {
        domain: manual_texts(manual, language, LENGTH[domain])
        for domain, language in [("english", "en"), ("german", "de"), ("french", "fr"),
                                 ("spanish", "es"), ("japanese", "ja")]
    }
    for domain, language, shortest in [("russian", "ru", 40), ("chinese", "zh_Hans", 15)]:
        joint = " " if domain == "russian" else ""
        pools[domain] = pack(translations([horizon, django], language, shortest), LENGTH[domain],
                             joint)
    pools["python"] = python_texts(django, LENGTH["python"])
    return {domain: spread(pool, TEXTS, domain) for domain, pool in sorted(pools.items())}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    output = pathlib.Path(sys.argv[2])
    try:
        domains = make_texts(pathlib.Path(sys.argv[1]))
    except SourceError as error:
        sys.exit(f"error: {error}")
    output.mkdir(parents=True, exist_ok=True)
    for domain, texts in domains.items():
        text = json.dumps(texts, ensure_ascii=False, indent=0) + "\n"
        (output / f"{domain}.json").write_text(text, encoding="utf-8")
        print(f"{domain}: {len(texts)} texts, {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
