"""A reader of HTML pages."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "image", "use", "input"}


class Page(HTMLParser):
    """Checks the nesting; collects texts by tag, ids and everything that would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.ids, self.fetched = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.fetched += [
            found[key] for key in ("src", "href", "xlink:href") if key in found and tag != "a"
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())
