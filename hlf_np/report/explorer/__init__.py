"""The explorer: a page on which the models of a run can be tried by hand, and the JavaScript that it consists of."""
