"""Banks in and out: what leaves a bank as a file, and what comes into one from a file.

    items.py       one line of an exchange file, and the references that stand for ids in it
    reading.py     a file of any known format -> items, what cannot be used counted
    links.py       what must come into a bank before what
    sgsd.py        the JSON banks of SGSD and SkillRL, both ways
    importing.py   items -> the bank, in one revision, quarantined unless trusted
    landing.py     the same into a bank that may have to be made first, under the guard
    exporting.py   the bank -> items -> a file

    jsonl     a record a line, sorted, so that versions of it compare line by line
    parquet   the same records in columns; `datasets.load_dataset("parquet", data_files=...)` reads them
    sgsd      general_skills, task_specific_skills, common_mistakes, metadata: wordings alone

What was measured or happened in one bank stays there: usage, history, vectors and indexes are neither written nor read.
"""

from skillbank.exchange.exporting import ExportReport, export_file
from skillbank.exchange.importing import ImportReport, import_file
from skillbank.exchange.landing import import_into
from skillbank.exchange.reading import FORMATS, Format

__all__ = ["FORMATS", "ExportReport", "Format", "ImportReport", "export_file", "import_file", "import_into"]
