-- The unit vector u = γ⁻¹/‖γ⁻¹‖, in DOUBLE; with exact zeros the normalised indicator of the zeros; NULL where γ is
-- empty or holds NULL, NaN or infinity. Scaled by the smallest nonzero |γᵢ| first, so that nothing overflows (maths.md, section 2).
-- A list of one value that is mapped over stands for "let": DuckDB would compute an expression within a lambda anew for every element.
CREATE MACRO kernel_direction(gamma) AS
CASE
    WHEN gamma IS NULL OR len(gamma) = 0 THEN NULL
    WHEN len(list_filter(gamma, lambda g: g IS NULL OR NOT isfinite(g))) > 0 THEN NULL
    WHEN list_contains(gamma, 0) THEN
        list_transform(
            [1 / sqrt(len(list_filter(gamma, lambda g: g = 0))::DOUBLE)],
            lambda share: list_transform(gamma, lambda g: CASE WHEN g = 0 THEN share ELSE 0::DOUBLE END)
        )[1]
    ELSE
        list_transform(
            [list_min(list_transform(gamma, lambda g: abs(g::DOUBLE)))],
            lambda least: list_transform(
                [list_transform(gamma, lambda g: least / g::DOUBLE)],
                lambda inverse: list_transform(
                    [sqrt(list_sum(list_transform(inverse, lambda x: x * x)))],
                    lambda length: list_transform(inverse, lambda x: x / length)
                )[1]
            )[1]
        )[1]
END;
COMMENT ON MACRO kernel_direction IS 'Unit vector u = γ⁻¹/‖γ⁻¹‖ of a scale γ, as DOUBLE[]; NULL where γ has none.';
