"""One page on runs, data, variants and images: `make report`."""

from __future__ import annotations

from docker.setup.project import say, write_atomic
from docker.tools.context import Context, Variant


def report(context: Context, *variants: Variant) -> int:
    """Write the page, and print its path; of all variants, or of those that are named.

    Raises:
        Failure: an unknown option.
    """
    from docker.tools.report.data import facts
    from docker.tools.report.page import page

    context.options("report")
    found = facts(context, variants or Variant.all(context))
    path = context.state / "report.html"
    write_atomic(path, page(found).encode(), 0o644)
    print(path.relative_to(context.root))
    for variant in found.variants:
        if variant.error:
            say(f"{variant.name} is not in the report: {variant.error}")
    for note in found.notes:
        say(f"the report has no image or comparison: {note}")
    return 0
