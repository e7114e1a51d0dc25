"""Live views for notebooks, each a module. The only place that knows anywidget, which comes with the first of them."""
