// wideep eplb report: how uneven the recorded load is, and how even a plan would have made it.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <utility>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/load_report.h"
#include "cli/report_flags.h"
#include "cli/report_html.h"
#include "eplb/report.h"

namespace wideep::cli {
namespace {

using eplb::LoadReport;

struct Flags {
  ReportFlags report;
  bool per_expert = false;
  std::string html;
};

OrderedJson report_json(const Flags& flags, const LoadReport& report) {
  OrderedJson json = {{"expert_statistic_path", flags.report.statistics},
                      {"num_experts", report.num_experts},
                      {"top_k", report.top_k},
                      {"iter_start", report.iter_start},
                      {"iter_stop", report.iter_stop},
                      {"per_expert", report.per_expert}};
  if (report.recorded) json["recorded"] = load_view_json(*report.recorded);
  if (report.projected) {
    json["projection_eplb_config_path"] = flags.report.plan;
    json["projected"] = load_view_json(*report.projected);
    json["projected_best_split"] = load_view_json(*report.best_split);
  }
  return json;
}

Status run(const Flags& flags) {
  ASSIGN_OR_RETURN(const auto plan, read_projection(flags.report));
  const std::string& folder = flags.report.statistics;
  ASSIGN_OR_RETURN(eplb::Statistics statistics, eplb::read_statistics(folder, flags.report.window));
  // A plan is projected on counts of experts; what was recorded stays what the ranks had.
  std::optional<eplb::Statistics> slots;
  if (const std::string experts = eplb::expert_folder(folder); plan && experts != folder) {
    slots = std::move(statistics);
    ASSIGN_OR_RETURN(statistics, eplb::read_statistics(experts, flags.report.window));
  }
  ASSIGN_OR_RETURN(const int ep_size, choose_ep_size(flags.report, statistics.num_ranks));
  ASSIGN_OR_RETURN(const LoadReport report,
                   eplb::make_load_report(statistics, {.ep_size = ep_size,
                                                       .per_expert = flags.per_expert,
                                                       .plan = plan ? &*plan : nullptr,
                                                       .slots = slots ? &*slots : nullptr}));
  // Files first: a table on the screen means that they are there.
  RETURN_IF_ERROR(write_report_json(flags.report.json, report_json(flags, report)));
  if (!flags.html.empty()) {
    RETURN_IF_ERROR(write_file(
        flags.html, load_report_html(report, {flags.report.statistics, flags.report.plan})));
  }
  fmt::print("Load statistics:\n{}", load_table_text(report));
  return Status::ok();
}

}  // namespace

void add_eplb_report(CLI::App& eplb) {
  CLI::App* command =
      eplb.add_subcommand("report", "Report how uneven recorded expert loads are, and with a plan");
  // Lives as long as the callback, which CLI11 copies.
  const auto flags = std::make_shared<Flags>();
  add_report_flags(*command, flags->report);
  command->get_option("--expert_statistic_path")->required();
  command->add_flag("--per_expert", flags->per_expert,
                    "One number an expert (a slot with a plan) instead of one a rank");
  command->add_option("--html", flags->html, "Write the report as one page to this file");
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli
