// wideep eplb report-cooccurrence: how many pairs of experts of a token share a rank.
#include <fmt/format.h>

#include <memory>

#include "cli/commands.h"
#include "cli/report_flags.h"
#include "cli/text_table.h"
#include "eplb/cooccurrence.h"
#include "eplb/rank_files.h"

namespace wideep::cli {
namespace {

using eplb::Cooccurrence;
using eplb::CooccurrenceRow;

// The pairs of a source.
struct Pairs {
  Cooccurrence matrices;
  int num_ranks = 0;  // recorded EP size; 0: unknown
};

// From the raw ids of a folder, or else the matrices that some recorders write.
Result<Pairs> read_pairs(const std::string& folder, eplb::IterationWindow window) {
  const auto raw = eplb::read_raw_statistics(folder, window);
  if (raw.is_ok()) {
    ASSIGN_OR_RETURN(const eplb::MetaInfo meta, eplb::read_meta_info(folder));
    ASSIGN_OR_RETURN(const auto files, eplb::list_rank_files(folder, eplb::RankFile::kRaw));
    ASSIGN_OR_RETURN(Cooccurrence matrices, eplb::total_cooccurrence(*raw, meta.num_experts));
    return Pairs{std::move(matrices), static_cast<int>(files.size())};
  }
  if (raw.status().code() != StatusCode::kNotFound) return raw.status();
  auto matrices = eplb::read_cooccurrence(folder, window);
  // The folder has neither: what it lacks are the raw files, which current recorders write.
  if (matrices.status().code() == StatusCode::kNotFound) return raw.status();
  RETURN_IF_ERROR(matrices.status());
  ASSIGN_OR_RETURN(const auto files, eplb::list_rank_files(folder, eplb::RankFile::kCooccurrence));
  return Pairs{std::move(matrices).value(), static_cast<int>(files.size())};
}

OrderedJson row_json(const CooccurrenceRow& row) {
  return {{"within_rank_cnt", row.within_rank},
          {"between_rank_cnt", row.between_rank},
          {"total_cnt", row.total},
          {"within_rank_ratio", row.within_ratio}};
}

OrderedJson report_json(const eplb::Shape& shape, const std::vector<CooccurrenceRow>& rows) {
  OrderedJson layers = OrderedJson::array();
  for (const CooccurrenceRow& row : rows) {
    OrderedJson layer = {{"layer", row.layer}};
    layer.update(row_json(row));
    layers.push_back(std::move(layer));
  }
  return {{"num_experts", shape.num_experts},
          {"num_slots", shape.num_slots},
          {"ep_size", shape.num_ranks},
          {"average", row_json(average_row(rows))},
          {"layers", std::move(layers)}};
}

std::string table_text(const std::vector<int>& layers, std::vector<CooccurrenceRow> rows) {
  rows.push_back(average_row(rows));
  std::vector<TextColumn> columns = {{"within_rank_cnt", {}},
                                     {"between_rank_cnt", {}},
                                     {"total_cnt", {}},
                                     {"within_rank_ratio", {}}};
  for (const CooccurrenceRow& row : rows) {
    columns[0].values.push_back(row.within_rank);
    columns[1].values.push_back(row.between_rank);
    columns[2].values.push_back(row.total);
    columns[3].values.push_back(row.within_ratio);
  }
  return text_table(row_labels(layers), columns);
}

Status run(const RoutedFlags& flags) {
  RETURN_IF_ERROR(check_routed_flags(flags));
  ASSIGN_OR_RETURN(const auto plan, read_projection(flags.report));
  Pairs pairs;
  if (flags.traces.empty()) {
    ASSIGN_OR_RETURN(pairs, read_pairs(flags.report.statistics, flags.report.window));
  } else {
    ASSIGN_OR_RETURN(const eplb::Trace trace, open_traces(flags, plan));
    pairs.matrices = eplb::total_cooccurrence(trace);
  }
  const Cooccurrence& matrices = pairs.matrices;
  ASSIGN_OR_RETURN(const int ep_size, choose_ep_size(flags.report, pairs.num_ranks));
  ASSIGN_OR_RETURN(const eplb::Placement placement,
                   choose_placement(plan, matrices.num_experts, matrices.layers, ep_size));
  std::vector<CooccurrenceRow> rows;
  const size_t size = static_cast<size_t>(matrices.num_experts) * matrices.num_experts;
  for (size_t i = 0; i < matrices.layers.size(); ++i) {
    const auto matrix = std::span(matrices.counts).subspan(i * size, size);
    rows.push_back(eplb::cooccurrence_row(matrices.layers[i], matrix, placement.shape,
                                          placement.row(static_cast<int>(i))));
  }
  RETURN_IF_ERROR(write_report_json(flags.report.json, report_json(placement.shape, rows)));
  fmt::print("Co-occurrence statistics:\n{}", table_text(matrices.layers, rows));
  return Status::ok();
}

}  // namespace

void add_eplb_report_cooccurrence(CLI::App& eplb) {
  CLI::App* command = eplb.add_subcommand(
      "report-cooccurrence", "Report how many pairs of a token's experts share a rank");
  // Lives as long as the callback, which CLI11 copies.
  const auto flags = std::make_shared<RoutedFlags>();
  add_routed_flags(*command, *flags);
  command->callback([flags] { finish(run(*flags)); });
}

}  // namespace wideep::cli
