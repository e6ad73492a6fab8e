"""Include and exclude rules of the configuration: a regular expression on one attribute, for all senders or one."""

import re
from collections.abc import Sequence

from anomalyd.ids import AETitle
from anomalyd.pipeline.series import SeriesHeader
from anomalyd.pipeline.settings import AttributeRule, PipelineSettings


def keywords(settings: PipelineSettings) -> frozenset[str]:
    """Attributes that rules look at: what `parse_instance` must keep."""
    return frozenset(rule.attribute for rule in (*settings.include, *settings.exclude))


def matching(rules: Sequence[AttributeRule], header: SeriesHeader, sender: AETitle | None) -> str | None:
    """The first rule that an instance of the series matches, as it stands in the configuration; None where none does.

    The matched value is not in the text: it may be patient data.
    """
    for rule in rules:
        if rule.sender is not None and rule.sender != sender:
            continue
        pattern = re.compile(rule.matches)
        if any(
            pattern.search(one.attributes.get(rule.attribute, ""))
            for one in header.instances
            if rule.attribute in one.attributes
        ):
            return f"{rule.attribute} =~ {rule.matches}"
    return None
