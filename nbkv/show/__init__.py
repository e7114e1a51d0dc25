"""Views of what nbkv returns: text, HTML and SVG without scripts, and plotly figures, all made from plain dicts."""

from __future__ import annotations

from nbkv.show.answer import answer_html
from nbkv.show.badge import badge
from nbkv.show.batch import batch_html, batch_text
from nbkv.show.bundle import MIME, answer_bundle, comparison_bundle, result_bundle
from nbkv.show.cache_file import cache_file_html, cache_file_text
from nbkv.show.certificate import certificate_html, certificate_text
from nbkv.show.chat import chat_html, chat_text
from nbkv.show.chunk import chunk_html, chunk_text
from nbkv.show.comparison import comparison_html, comparison_text
from nbkv.show.figures import Plot, comparison_figure, comparison_plot, history_figure, history_plot
from nbkv.show.health import health_html, health_text
from nbkv.show.page import table_html, table_text
from nbkv.show.pipeline import pipeline_html, pipeline_text
from nbkv.show.plan import plan_html, plan_text
from nbkv.show.ranking import ranking_html, ranking_text
from nbkv.show.replay import replay_html, replay_svg, replay_text
from nbkv.show.report import report_html, report_text
from nbkv.show.result import coming_html, result_html, result_summary, result_text
from nbkv.show.search import search_html, search_text
from nbkv.show.stats import stats_html, stats_text
from nbkv.show.tour import tour_html, tour_reason, tour_text
from nbkv.show.why import why_html, why_text

__all__ = [
    "MIME",
    "Plot",
    "answer_bundle",
    "answer_html",
    "badge",
    "batch_html",
    "batch_text",
    "cache_file_html",
    "cache_file_text",
    "certificate_html",
    "certificate_text",
    "chat_html",
    "chat_text",
    "chunk_html",
    "chunk_text",
    "coming_html",
    "comparison_bundle",
    "comparison_figure",
    "comparison_html",
    "comparison_plot",
    "comparison_text",
    "health_html",
    "health_text",
    "history_figure",
    "history_plot",
    "pipeline_html",
    "pipeline_text",
    "plan_html",
    "plan_text",
    "ranking_html",
    "ranking_text",
    "replay_html",
    "replay_svg",
    "replay_text",
    "report_html",
    "report_text",
    "result_bundle",
    "result_html",
    "result_summary",
    "result_text",
    "search_html",
    "search_text",
    "stats_html",
    "stats_text",
    "table_html",
    "table_text",
    "tour_html",
    "tour_reason",
    "tour_text",
    "why_html",
    "why_text",
]
