"""Callbacks: what a user sees of a run while it trains."""

from gan3d.training.callbacks.alarms import AlarmLevels, alarms
from gan3d.training.callbacks.distributions import Distributions
from gan3d.training.callbacks.evaluation import Evaluation, rounded
from gan3d.training.callbacks.live_view import LiveView
from gan3d.training.callbacks.predictions import Predictions
from gan3d.training.callbacks.progress import KimgProgressBar, forecast, progress_line
from gan3d.training.callbacks.snapshots import Snapshots
from gan3d.training.callbacks.summary import Summary
from gan3d.training.callbacks.time_limit import TimeLimit, time_limit
from gan3d.training.callbacks.watchdog import Watchdog

__all__ = [
    "AlarmLevels",
    "Distributions",
    "Evaluation",
    "KimgProgressBar",
    "LiveView",
    "Predictions",
    "Snapshots",
    "Summary",
    "TimeLimit",
    "Watchdog",
    "alarms",
    "forecast",
    "progress_line",
    "rounded",
    "time_limit",
]
