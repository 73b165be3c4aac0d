"""Figures as people read them: the same words in text and HTML."""

from __future__ import annotations

from qvl_core.cli.terminal import bytes_text

from qvl_data.inspection.report import CheckReport, MediaTotals


def counted(number: int, noun: str) -> str:
    """Give `1 image`, `2,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def share(part: int, whole: int) -> str:
    """Give a part in per cent: `12.5 %`; `< 0.1 %` for what is not nothing."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"


def seconds_text(seconds: float) -> str:
    """Give a time: `4.2 s`, `3 min 20 s`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def verdict(report: CheckReport) -> str:
    """Say in one line whether training can start with these data."""
    head = "clean" if report.is_clean else counted(report.errors, "problem")
    if report.warnings:
        head += f", {counted(report.warnings, 'warning')}"
    how = "images decoded" if report.decoded else "image headers only"
    return f"{report.recipe}: {head} ({counted(report.records, 'record')}, {how}, {seconds_text(report.seconds)})"


def epoch_lines(report: CheckReport) -> list[tuple[str, str]]:
    """Give (name, sentence) about an epoch and the run; empty where there are no samples."""
    epoch = report.epoch
    if epoch is None:
        return []
    lines = [("epoch", f"{counted(epoch.samples, 'sample')}, {counted(epoch.tokens, 'token')}")]
    if epoch.packs is not None:
        lines.append(("packs", f"{epoch.packs.count:,} an epoch, {100 * epoch.packs.fill:.1f} % full"))
    item = "pack" if epoch.packs is not None else "sample"
    per_step = f"{epoch.steps_per_epoch:,.1f}".removesuffix(".0")
    lines.append(("steps", f"{per_step} an epoch, of {counted(epoch.items_per_step, item)} each"))
    if epoch.steps is not None:
        lines.append(("run", f"{counted(epoch.steps, 'step')} = {epoch.steps / epoch.steps_per_epoch:,.2f} epochs"))
    elif epoch.epochs is not None:
        steps = round(epoch.epochs * epoch.steps_per_epoch)
        lines.append(("run", f"{counted(epoch.epochs, 'epoch')}, about {counted(steps, 'step')}"))
    return lines


def media_text(media: MediaTotals) -> str:
    """Say how many media there are and how large: `800 images and 12 videos, 118 MiB`."""
    named = ((media.images, "image"), (media.videos, "video"))
    files = " and ".join(counted(number, noun) for number, noun in named if number)
    return f"{files}, {bytes_text(media.bytes)}" if files else "none: text only"
