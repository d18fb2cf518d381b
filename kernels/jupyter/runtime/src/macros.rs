//! The macros by which cells print to stderr, under the names they have in std: what a cell prints
//! with them keeps its place among what it prints to stdout.

#[macro_export]
macro_rules! eprint {
    ($($argument:tt)*) => { $crate::eprint(::std::format_args!($($argument)*)) };
}

#[macro_export]
macro_rules! eprintln {
    () => { $crate::eprint(::std::format_args!("\n")) };
    ($($argument:tt)*) => { $crate::eprint(::std::format_args!("{}\n", ::std::format_args!($($argument)*))) };
}

#[macro_export]
macro_rules! dbg {
    // The kernel makes the cell and its line of these.
    () => {
        $crate::eprint(::std::format_args!("[{}:{}:{}]\n", ::std::file!(), ::std::line!(), ::std::column!()))
    };
    ($value:expr $(,)?) => {
        match $value {
            value => {
                $crate::eprint(::std::format_args!("{} = {:#?}\n", ::std::stringify!($value), &value));
                value
            }
        }
    };
    ($($value:expr),+ $(,)?) => { ($($crate::dbg!($value)),+,) };
}
