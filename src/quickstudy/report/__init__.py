"""One self-contained page, and pictures, from one or several run folders."""

from quickstudy.report.page import report as report
