// wideep eplb report-send-ranks: how many distinct ranks a token is sent to.
#include <fmt/format.h>

#include <memory>

#include "base/parallel.h"
#include "cli/commands.h"
#include "cli/report_flags.h"
#include "cli/text_table.h"
#include "eplb/cooccurrence.h"
#include "eplb/rank_files.h"
#include "eplb/send_ranks.h"

namespace wideep::cli {
namespace {

using eplb::SendRanksRow;

// Rows of every layer, and the placement that they are for.
struct Report {
  eplb::Placement placement;
  std::vector<SendRanksRow> rows;
};

Result<Report> report_trace(const RoutedFlags& flags, const std::optional<eplb::Plan>& plan) {
  ASSIGN_OR_RETURN(const eplb::Trace trace, open_traces(flags, plan));
  ASSIGN_OR_RETURN(const int ep_size, choose_ep_size(flags.report, 0));
  Report report;
  ASSIGN_OR_RETURN(report.placement,
                   choose_placement(plan, trace.num_experts(), trace.layers(), ep_size));
  report.rows.resize(trace.layers().size());
  parallel_for(trace.num_layers(), 0, [&](int i) {
    report.rows[i] =
        eplb::send_ranks_row(trace, i, report.placement.shape, report.placement.row(i));
  });
  return report;
}

Result<Report> report_statistics(const ReportFlags& flags, const std::optional<eplb::Plan>& plan) {
  ASSIGN_OR_RETURN(const auto raw, eplb::read_raw_statistics(flags.statistics, flags.window));
  ASSIGN_OR_RETURN(const eplb::MetaInfo meta, eplb::read_meta_info(flags.statistics));
  ASSIGN_OR_RETURN(const auto files, list_rank_files(flags.statistics, eplb::RankFile::kRaw));
  ASSIGN_OR_RETURN(const int ep_size, choose_ep_size(flags, static_cast<int>(files.size())));
  const std::vector<int> layers = eplb::layers_of(raw);
  Report report;
  ASSIGN_OR_RETURN(report.placement, choose_placement(plan, meta.num_experts, layers, ep_size));
  for (size_t i = 0; i < layers.size(); ++i) {
    ASSIGN_OR_RETURN(SendRanksRow row,
                     eplb::send_ranks_row(raw, layers[i], report.placement.shape,
                                          report.placement.row(static_cast<int>(i))));
    report.rows.push_back(row);
  }
  return report;
}

OrderedJson report_json(const Report& report) {
  OrderedJson layers = OrderedJson::array();
  for (const SendRanksRow& row : report.rows) {
    layers.push_back({{"layer", row.layer},
                      {"num_send_ranks_per_token", row.ranks},
                      {"num_tokens", row.num_tokens}});
  }
  const eplb::Shape& shape = report.placement.shape;
  return {{"num_experts", shape.num_experts},
          {"num_slots", shape.num_slots},
          {"ep_size", shape.num_ranks},
          {"average", {{"num_send_ranks_per_token", average_send_ranks(report.rows)}}},
          {"layers", std::move(layers)}};
}

Status run(const RoutedFlags& flags) {
  RETURN_IF_ERROR(check_routed_flags(flags));
  ASSIGN_OR_RETURN(const auto plan, read_projection(flags.report));
  ASSIGN_OR_RETURN(const Report report, flags.traces.empty() ? report_statistics(flags.report, plan)
                                                             : report_trace(flags, plan));
  RETURN_IF_ERROR(write_report_json(flags.report.json, report_json(report)));
  TextColumn column{"num_send_ranks_per_token", {}};
  for (const SendRanksRow& row : report.rows) column.values.push_back(row.ranks);
  column.values.push_back(average_send_ranks(report.rows));
  fmt::print("Send ranks statistics:\n{}",
             text_table(row_labels(report.placement.layers), {column}));
  return Status::ok();
}

}  // namespace

void add_eplb_report_send_ranks(CLI::App& eplb) {
  CLI::App* command = eplb.add_subcommand(
      "report-send-ranks", "Report how many distinct ranks a token is expected to be sent to");
  // Lives as long as the callback, which CLI11 copies.
  const auto flags = std::make_shared<RoutedFlags>();
  add_routed_flags(*command, *flags);
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli
