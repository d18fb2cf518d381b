use super::*;

#[test]
fn the_rows_agree_with_the_reference_in_the_output_and_every_gradient() {
    crate::selftest::agree(cases(), 1e-10);
}
