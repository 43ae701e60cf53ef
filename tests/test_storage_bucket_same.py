"""What holds of a store in a folder holds of one in a bucket: the same tests, with a store in a bucket."""

import pytest

from storage.store import open_store
from tests.test_storage_database import (  # noqa: F401
    test_a_batch_without_its_marker_is_not_served,
    test_a_key_that_is_there_twice_is_served_once,
    test_a_reader_keeps_its_snapshot_while_another_is_put_in_place,
    test_conclusions_of_each_method_version_are_kept,
    test_facts_and_vectors_come_back_as_one_row,
    test_of_two_audits_of_a_revision_the_later_counts_whole,
    test_the_columns_of_a_table_are_those_of_the_schema_with_or_without_parts,
    test_the_facts_are_in_the_database_alone,
    test_the_snapshot_cannot_be_changed_through_the_connection,
)
from tests.test_storage_lease import (  # noqa: F401
    test_a_lease_file_that_names_nobody_keeps_nobody_out,
    test_a_lease_is_given_back_when_its_block_fails,
    test_a_lease_is_renewed_while_its_holder_works,
    test_of_many_takers_at_once_one_gets_the_lease,
    test_the_lease_of_a_killed_process_is_taken_over_at_once,
)
from tests.test_storage_nights import (  # noqa: F401
    test_a_merge_forgets_no_failure,
    test_a_night_is_unfinished_from_its_plan_to_its_marker,
    test_a_night_without_a_plan_and_a_plan_that_cannot_be_read_are_errors,
    test_a_plan_comes_back_as_it_was_written_batch_by_batch,
    test_a_plan_that_was_not_written_to_its_end_is_no_plan,
    test_an_empty_store_has_an_answer_for_no_repo,
)
from tests.test_storage_parts import (  # noqa: F401
    test_a_batch_is_finished_when_its_marker_is_there_even_without_rows,
    test_a_batch_written_again_replaces_itself,
    test_a_table_without_rows_gets_no_part,
    test_columns_of_one_run_are_read_without_those_of_another,
    test_many_writers_write_parts_at_once,
    test_swap_replaces_only_what_is_expected,
)

pytestmark = pytest.mark.slow  # each of these facts has its quick test on a folder


@pytest.fixture
def store(bucket):
    return open_store(bucket)
