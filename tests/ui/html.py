"""Read pages as a browser does: their elements, links and text."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urljoin


@dataclass(slots=True)
class Element:
    tag: str
    attributes: dict[str, str]


class Document(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    def links(self, url: str) -> set[str]:
        """Return the absolute addresses of the links of a page at ``url``."""
        return {urljoin(url, each.attributes["href"]).partition("#")[0] for each in self.all("a")}


def parse(html: str) -> Document:
    document = Document()
    document.feed(html)
    return document
