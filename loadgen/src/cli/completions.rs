//! `vaultmark completions`: what a shell needs to complete our command lines.

use clap::CommandFactory;

use super::args::CompletionsArgs;
use super::{Cli, Exit, Ui};

/// Prints the completions of a shell.
pub fn completions(args: &CompletionsArgs, ui: &mut Ui) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vaultmark", &mut script);
    ui.out(&String::from_utf8_lossy(&script));
    Exit::Pass
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let (mut ui, out, _) = Ui::captured();
            assert_eq!(completions(&CompletionsArgs { shell: *shell }, &mut ui), Exit::Pass);
            for command in Cli::command().get_subcommands() {
                assert!(out.text().contains(command.get_name()), "{shell}");
            }
        }
    }
}
