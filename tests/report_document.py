"""A page taken apart for tests: its tables, its texts, and what could act."""

import re
from html.parser import HTMLParser


class Document(HTMLParser):
    """Tables as rows of cell texts, and what could ask for or run something."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tables, self.tags, self.links, self.text = [], [], [], ""
        self.headings, self._cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self._cell = self.tables[-1][-1]
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell[-1] += data

    def table(self, header, number=0):
        """Rows by their head, of the n-th table whose header row holds these."""
        found = [t for t in self.tables if set(header) <= {c.strip() for c in t[0]}]
        rows = found[number]
        names = [c.strip() for c in rows[0]]
        return {
            row[0].strip(): dict(zip(names, [c.strip() for c in row], strict=True))
            for row in rows[1:]
            if len(row) == len(names)
        }
