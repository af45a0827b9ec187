"""A page in the browser to drop photos on: `deblurgan web`.

work and playground are what the page does, without gradio; page lays it out; server opens it on this machine alone.
"""

from deblurgan.web.server import serve

__all__ = ["serve"]
