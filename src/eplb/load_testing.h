// What must hold for any bytes that the readers of loads and statistics are given: for the fuzzers
// and the replay of their corpora, as base/formats_testing.h.
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/formats_testing.h"
#include "eplb/csv.h"
#include "eplb/load_rules.h"
#include "eplb/rank_files.h"
#include "eplb/sglang.h"

namespace wideep::eplb {

inline void check_load(const Result<Load>& load) {
  if (!load.is_ok()) {
    CHECK(!load.status().message().empty());
    return;
  }
  CHECK(load->num_experts >= 1 && load->num_layers() >= 1);
  CHECK_EQ(load->tokens.size(),
           static_cast<size_t>(load->num_layers()) * static_cast<size_t>(load->num_experts));
  CHECK(std::adjacent_find(load->layers.begin(), load->layers.end(), std::greater_equal<>()) ==
        load->layers.end());
  const auto is_count = [](int64_t t) { return t >= 0 && t <= kMaxLayerTokens; };
  CHECK(std::all_of(load->tokens.begin(), load->tokens.end(), is_count));
  CHECK(std::any_of(load->row(0).begin(), load->row(0).end(), [](int64_t t) { return t > 0; }));
}

inline void check_sglang(std::string_view input) {
  check_load(parse_sglang_load(input, "input"));
}

inline void check_csv(std::string_view input) {
  check_load(parse_csv_load(input, "input"));
  check_load(parse_csv_load(input, "input", "a"));
}

// A rank file of three experts: first as rank 0, whose grid counts, then as another rank.
inline void check_rank_file(std::string_view input) {
  const Result<Safetensors> file = Safetensors::parse(as_bytes(input), "input");
  if (!file.is_ok()) return;
  const int64_t shape[] = {3};
  const Result<Grid> grid = read_grid(*file);
  if (!grid.is_ok() || !check_shapes(*file, shape).is_ok()) return;
  const IterationWindow window = resolve_window({}, *grid, "folder").value();
  const size_t rows = static_cast<size_t>(window.stop - window.start) * grid->layers.size();
  CHECK_EQ(rows, file->tensors().size());
  std::vector<int64_t> sums(rows * 3);
  const auto row = [&](int iteration, int layer_index) {
    const size_t at = static_cast<size_t>(iteration - window.start) * grid->layers.size() +
                      static_cast<size_t>(layer_index);
    return std::span(sums).subspan(at * 3, 3);
  };
  for (int rank = 0; rank < 2; ++rank) {
    if (!add_entries(*file, *grid, window, shape, row).is_ok()) return;
  }
  CHECK(std::all_of(sums.begin(), sums.end(), [](int64_t t) { return t >= 0; }));
}

}  // namespace wideep::eplb
