"""The tables on pretrained models and real text: what is measured, how methods are compared, the page."""
