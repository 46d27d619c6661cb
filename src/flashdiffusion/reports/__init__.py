"""What results files say together: intervals, comparisons image by image, tables, a page to look at."""

from flashdiffusion.reports.cells import Cell, read_cells
from flashdiffusion.reports.page import write_page
from flashdiffusion.reports.statistics import Comparison, compare_cells, interval

__all__ = ["Cell", "Comparison", "compare_cells", "interval", "read_cells", "write_page"]
