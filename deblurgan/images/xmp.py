"""XMP packets: the orientation in them, and what only holds of the file that they come from."""

from __future__ import annotations

import re
from xml.dom import minidom
from xml.parsers.expat import ExpatError

_ORIENTATION = re.compile(rb"""\s*tiff:Orientation=["']([0-9])["']|<tiff:Orientation>([0-9])</tiff:Orientation>""")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
# Properties that announce a gain map, a depth map, a video or a second packet in the file, by namespace or by name
_NAMESPACES = (
    "http://ns.adobe.com/hdr-gain-map/",
    "http://ns.apple.com/HDRGainMap/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/dd/1.0/",
)
_NAMES = ("HasExtendedXMP", "MicroVideo", "MotionPhoto", "VideoLength")
_ANNOUNCEMENT = re.compile("|".join(map(re.escape, _NAMESPACES + _NAMES)).encode())
_REFERENCE = "\ufdd0"  # in place of the start of a character reference; this is no character, so no text has it


def split_orientation(xmp: bytes) -> tuple[int | None, bytes]:
    """The orientation in a packet, None if it names none, and the packet without it."""
    found = _ORIENTATION.search(xmp)
    return int(found[1] or found[2]) if found else None, _ORIENTATION.sub(b"", xmp)


def extension_identifier(xmp: bytes) -> bytes | None:
    """The identifier of the extended XMP that a JPEG's packet announces; None where it announces none."""
    found = re.search(rb"""HasExtendedXMP\s*(?:=\s*["']|>)\s*([0-9A-Fa-f]{32})""", xmp)
    return found[1] if found else None


def standalone(xmp: bytes, extension: bytes | None = None) -> bytes | None:
    """The packet with its extension joined in and no announcement of other parts of the file; None if it is not XML.

    A packet that announces nothing keeps its bytes.
    """
    if not _ANNOUNCEMENT.search(xmp):
        return xmp
    try:
        packet = _parse(xmp)
        if extension is not None:
            _join(packet, _parse(extension))
        for element in _elements(packet):
            _remove_announcements(element)
        text = "".join(node.toxml() for node in packet.childNodes)
    except (ExpatError, ValueError, IndexError, RecursionError):
        return None
    return text.replace(_REFERENCE, "&#").encode()


def _parse(xmp: bytes) -> minidom.Document:
    """The packet as a document. Raises ValueError for one with a document type, and thus entities: XMP has none.

    Character references stay as they are: minidom would make a line break of &#10;.
    """
    text = xmp.decode("utf-8-sig").strip("\0\r\n\t ")
    if "<!DOCTYPE" in text:
        raise ValueError("XMP must not have a document type")
    return minidom.parseString(text.replace("&#", _REFERENCE))  # noqa: S318 (no entities, no network)


def _join(packet: minidom.Document, extension: minidom.Document) -> None:
    """Puts the extension's descriptions behind those of the packet, with the namespaces declared around them."""
    target, source = (document.getElementsByTagNameNS(_RDF, "RDF")[0] for document in (packet, extension))
    around = [node for node in (source.parentNode, source) if isinstance(node, minidom.Element)]
    for description in _elements(source):
        added = packet.importNode(description, True)
        for node in around:
            for name, value in node.attributes.items():
                if name.startswith("xmlns:") and not added.hasAttribute(name):
                    added.setAttribute(name, value)
        target.appendChild(added)


def _remove_announcements(element: minidom.Element) -> None:
    for attribute in list(element.attributes.values()):
        if _announces(attribute) or (attribute.prefix == "xmlns" and attribute.value.startswith(_NAMESPACES)):
            element.removeAttributeNode(attribute)
    for child in _elements(element):
        if _announces(child):
            element.removeChild(child)
        else:
            _remove_announcements(child)


def _announces(node: minidom.Attr | minidom.Element) -> bool:
    return (node.namespaceURI or "").startswith(_NAMESPACES) or (node.localName or "").startswith(_NAMES)


def _elements(parent: minidom.Document | minidom.Element) -> list[minidom.Element]:
    return [node for node in parent.childNodes if isinstance(node, minidom.Element)]
