"""Reports as single HTML files that need nothing else: parts has their looks, sections, tables and pictures, charts
their charts."""
