use super::*;

#[test]
fn one_pass_agrees_with_the_reference_in_the_output_and_both_gradients() {
    crate::selftest::agree(cases(), 1e-10);
}
