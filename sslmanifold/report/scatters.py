"""The embeddings of a report: one scatter for each group of runs and data set."""

from collections.abc import Sequence
from html import escape

import numpy as np

from sslmanifold.plots.groups import Group
from sslmanifold.plots.style import OKABE_ITO
from sslmanifold.report.chart import Chart, frame, numbers, read
from sslmanifold.runs import ENDED

SCATTERS = 12  # embeddings shown


def embeddings(groups: Sequence[Group], names: Sequence[str], points: int = 300) -> tuple[str, list[Chart]]:
    """Heading and charts: training points of the first run of each group and data set, coloured by label.

    Of a group whose runs all diverged, the last finite state: that is where its collapse shows.
    """
    palette = [*list(OKABE_ITO.values())[1:], "#000000", "#999999", "#7F3C8D"]
    found: list[Chart] = []
    available = 0
    for data in names:
        for group in groups:
            ended = [r for status in ENDED for r in group.on(data) if r.status == status]
            record = ended[0] if ended else None
            arrays = {} if record is None else read(record, "embedding_final", "labels")
            if "embedding_final" not in arrays:
                continue
            available += 1
            if len(found) >= SCATTERS:
                continue
            embedding = arrays["embedding_final"][0]  # first replica, (n, z)
            labels = arrays.get("labels", np.zeros(len(embedding), int))
            chosen = np.linspace(0, len(embedding) - 1, min(points, len(embedding))).astype(int)
            first = embedding[chosen, 0]
            second = embedding[chosen, 1] if embedding.shape[1] > 1 else np.zeros_like(first)
            traces = []
            for index, label in enumerate(np.unique(labels)[:10]):
                mask = labels[chosen] == label
                traces.append(
                    {
                        "type": "scatter", "mode": "markers", "name": str(label), "x": numbers(first[mask]),
                        "y": numbers(second[mask]), "marker": {"color": palette[index % len(palette)], "size": 5},
                        "hovertemplate": f"label {escape(str(label))}<br>(%{{x}}, %{{y}})<extra></extra>",
                        "showlegend": len(np.unique(labels)) > 1,
                    }
                )  # fmt: skip
            title = f"{group.label} on {data}"
            if record is not None and record.status == "diverged":
                title += " (diverged)"
            found.append({"data": traces, "layout": frame(title, "u₁", "u₂")})
    heading = "Embeddings at the end"
    if available > len(found):
        heading += f": the first {len(found)} of {available}"
    return heading, found
