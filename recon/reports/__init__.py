"""Reports of a day or more: counted from the rows when they are asked for, shown as CSV and as one page of HTML."""
