//! The program: parses arguments and hands over to the library.

use std::process::ExitCode;

use lightnvr::appliance;
use lightnvr::args::{self, Task};
use lightnvr::nvr::start;

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1)) {
        Ok(Task::Run(run)) => start::run(run),
        Ok(Task::Check { data_dir }) => start::check(&data_dir),
        Ok(Task::Rebuild { data_dir, storage }) => start::rebuild(&data_dir, storage),
        Ok(Task::Init(init)) => appliance::init::run(&init),
        Ok(Task::Keep(keep)) => appliance::keep::run(&keep),
        Ok(Task::Version) => {
            println!("lightnvr {}", lightnvr::VERSION);
            ExitCode::SUCCESS
        }
        Ok(Task::Help) => {
            print!("{}", args::HELP);
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("lightnvr: {message}; --help lists the options");
            ExitCode::from(2)
        }
    }
}
