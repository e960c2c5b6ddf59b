"""What in docs/ is made by programs: the pages from the program's own tables, the pictures from a study's report."""
