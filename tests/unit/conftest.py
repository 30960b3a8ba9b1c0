"""What must be there before Hypothesis measures how long its values take."""

import pytest
from hypothesis import strategies as st


@pytest.fixture(scope="session", autouse=True)
def _unicode_table():
    """Have Hypothesis's table of Unicode's categories made, or read, outside any test.

    Making it takes some 3 s, once for a checkout (``.hypothesis/unicode_data`` keeps it). Within a
    test it would count as that test's first text: more than the second that the check for
    slow values allows ten of them, in whichever test is the first to draw text.
    """
    st.text().validate()
