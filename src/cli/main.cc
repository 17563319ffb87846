#include "cli/commands.h"

int main(int argc, char** argv) {
  CLI::App app("wideep: wide expert parallelism for mixture-of-experts models", "wideep");
  app.set_version_flag("--version", "wideep " WIDEEP_VERSION);
  app.require_subcommand(1);
  CLI::App* eplb = app.add_subcommand("eplb", "Measure expert load and balance it");
  eplb->require_subcommand(1);
  wideep::cli::add_bench(app);
  wideep::cli::add_config(app);
  wideep::cli::add_eplb_import(*eplb);
  wideep::cli::add_generate(app);
  wideep::cli::add_eval(app);
  wideep::cli::add_info(app);
  wideep::cli::add_tokenize(app);
  wideep::cli::add_eplb_generate(*eplb);
  wideep::cli::add_eplb_evaluate(*eplb);
  wideep::cli::add_eplb_replay(*eplb);
  wideep::cli::add_eplb_report(*eplb);
  wideep::cli::add_eplb_report_cooccurrence(*eplb);
  wideep::cli::add_eplb_report_send_ranks(*eplb);
  wideep::cli::add_eplb_watch(*eplb);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& error) {
    return error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return 0;
}
