"""The bank in a browser: look at entries, decide about them, go back. FastAPI, Jinja2 and htmx, without a build.

    app = create_app(Site("bank", actor="ada"))     # an ASGI application; `sgsd bank ui` serves it

app          the application: routes, errors as pages
site         what one server knows: the bank, who edits, what is allowed; `desk` the one thread that has the embedder
safety       Host header, access token, CSRF token, content security policy, reading only
pages        from values to HTML: templates, links, what every page shows
overview, entries, bulk, entry, review, merging, clusters, revisions, playground, training      a file a page
diff, plots  two texts side by side; small plots as SVG

Pages show what `skillbank` finds and call what it does: no operation is made here. Every word of an entry is text that
nobody vouches for: templates escape all of it, and no page has inline script or style.
"""

from skillbank.web.app import create_app
from skillbank.web.site import Site, TeacherPrompts

__all__ = ["Site", "TeacherPrompts", "create_app"]
