#include "eplb/import.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/npy.h"
#include "base/safetensors.h"
#include "eplb/statistics.h"

namespace wideep::eplb {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kLoad =
    R"({"logical_count": [[0, 0, 0, 0], [8, 4, 2, 2], [0, 0, 0, 0], [1, 1, 1, 997]]})";

ImportOptions small_options() {
  ImportOptions options;
  options.num_ranks = 3;
  options.num_iterations = 12;
  options.tokens_per_rank = 50;
  options.top_k = 2;
  options.seed = 5;
  return options;
}

int64_t sum_of(std::span<const int64_t> row) {
  return std::accumulate(row.begin(), row.end(), int64_t{0});
}

// All bytes of a folder's files.
std::string fingerprint(const std::string& folder) {
  std::string all;
  const std::vector<std::string> names = list_directory(folder).value();
  for (const std::string& name : names) {
    all += name + ":" + contents_of(join_path(folder, name));
  }
  return all;
}

TEST(Import, SamplesCountsFromALoad) {
  const TemporaryFolder folder;
  const ImportSource source{.paths = {folder.write("load.json", kLoad)}};
  std::atomic<int> progress{0};
  const ImportSummary summary =
      import_statistics(source, small_options(), folder / "out", [&] { ++progress; }).value();
  EXPECT_EQ(summary.num_layers, 3);
  EXPECT_EQ(summary.num_experts, 4);
  EXPECT_EQ(summary.top_k, 2);
  EXPECT_EQ(progress, 36);
  const Statistics statistics = read_statistics(folder / "out").value();
  EXPECT_EQ(statistics.num_ranks, 3);
  EXPECT_EQ(statistics.num_iterations(), 12);
  EXPECT_EQ(statistics.top_k, 2);
  EXPECT_THAT(statistics.layers, ElementsAre(1, 2, 3));
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(sum_of(statistics.row(i, 0)), 3 * 50 * 2);
    EXPECT_EQ(sum_of(statistics.row(i, 1)), 0);
    EXPECT_EQ(sum_of(statistics.row(i, 2)), 3 * 50 * 2);
  }
  EXPECT_EQ(read_raw_statistics(folder / "out").status().code(), StatusCode::kNotFound);
}

// Few draws are made one by one, many expert by expert.
TEST(Import, CountsFollowTheLoad) {
  const TemporaryFolder folder;
  const ImportSource source{.paths = {folder.write("load.json", kLoad)}};
  for (const int tokens_per_rank : {50, 500}) {
    ImportOptions options = small_options();
    options.tokens_per_rank = tokens_per_rank;
    ASSERT_TRUE(import_statistics(source, options, folder / "out").is_ok());
    const Load load = read_load(folder / "out").value();
    const double draws = 3.0 * 12 * 2 * tokens_per_rank;
    const double shares[] = {0.5, 0.25, 0.125, 0.125};
    for (size_t e = 0; e < 4; ++e) {  // within 6 standard deviations
      EXPECT_NEAR(static_cast<double>(load.row(0)[e]), draws * shares[e],
                  6 * std::sqrt(draws * shares[e] * (1 - shares[e])));
    }
  }
}

TEST(Import, RawIdsAreDistinctAndAgreeWithTheCounts) {
  const TemporaryFolder folder;
  const ImportSource source{.paths = {folder.write("load.json", kLoad)}};
  ImportOptions options = small_options();
  options.raw = true;
  ASSERT_TRUE(import_statistics(source, options, folder / "out").is_ok());
  const Statistics statistics = read_statistics(folder / "out").value();
  std::vector<int64_t> counts(statistics.tokens.size());
  const std::vector<RawIds> all = read_raw_statistics(folder / "out").value();
  ASSERT_EQ(all.size(), 3u * 12 * 3);
  for (const RawIds& ids : all) {
    ASSERT_EQ(ids.experts.size(), 100u);
    for (size_t t = 0; t < 100; t += 2) {
      if (ids.layer == 2) {
        EXPECT_EQ(ids.experts[t], -1);
        continue;
      }
      EXPECT_NE(ids.experts[t], ids.experts[t + 1]);
      for (const size_t k : {t, t + 1}) {
        const int row = ids.iteration * 3 + ids.layer - 1;
        ++counts[static_cast<size_t>(row) * 4 + static_cast<size_t>(ids.experts[k])];
      }
    }
  }
  EXPECT_EQ(counts, statistics.tokens);
  // Expert 3 of layer 3 has nearly all load: it is in every token, the other slot is shared.
  EXPECT_EQ(statistics.row(0, 2)[3], 150);
}

// Token t of layer l has experts (t + l) % 5 and 5.
std::string write_trace(const TemporaryFolder& folder) {
  std::vector<uint8_t> ids;
  for (int t = 0; t < 40; ++t) {
    for (int l = 0; l < 2; ++l) {
      ids.push_back(static_cast<uint8_t>((t + l) % 5));
      ids.push_back(5);
    }
  }
  std::string path = folder / "a.npy";
  EXPECT_TRUE(write_npy(path, DType::kU8, {40, 2, 2}, std::as_bytes(std::span(ids))).is_ok());
  folder.write("a.lens.json", "[4, 30, 6]");
  return path;
}

TEST(Import, TraceTokensKeepTheirLayersTogether) {
  const TemporaryFolder folder;
  ImportSource source{.format = LoadFormat::kTrace, .paths = {write_trace(folder)}};
  source.num_experts = 7;
  source.first_layer = 3;
  ImportOptions options = small_options();
  options.top_k = 0;
  options.raw = true;
  ASSERT_TRUE(import_statistics(source, options, folder / "out").is_ok());
  const Statistics statistics = read_statistics(folder / "out").value();
  EXPECT_EQ(statistics.num_experts, 7);
  EXPECT_THAT(statistics.layers, ElementsAre(3, 4));
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(statistics.row(i, 0)[5], 150);
    EXPECT_EQ(statistics.row(i, 0)[6], 0);
    for (size_t e = 0; e < 5; ++e) {
      EXPECT_EQ(statistics.row(i, 0)[e], statistics.row(i, 1)[(e + 1) % 5]);
    }
  }
}

TEST(Import, ConsecutiveTokensComeFromOneText) {
  const TemporaryFolder folder;
  const ImportSource source{.format = LoadFormat::kTrace, .paths = {write_trace(folder)}};
  ImportOptions options = small_options();
  options.top_k = 0;
  options.raw = true;
  options.tokens_per_rank = 3;  // shorter than every text, so one run
  options.batching = Batching::kSequence;
  ASSERT_TRUE(import_statistics(source, options, folder / "out").is_ok());
  std::set<int> starts;
  const std::vector<RawIds> all = read_raw_statistics(folder / "out").value();
  for (const RawIds& ids : all) {
    starts.insert(ids.experts[0]);
    EXPECT_EQ(ids.experts[2], (ids.experts[0] + 1) % 5);
    EXPECT_EQ(ids.experts[4], (ids.experts[0] + 2) % 5);
  }
  EXPECT_GT(starts.size(), 2u);
  // More tokens than any text has: several runs, and still as many as were asked for.
  options.tokens_per_rank = 100;
  ASSERT_TRUE(import_statistics(source, options, folder / "out").is_ok());
  EXPECT_EQ(read_raw_statistics(folder / "out").value()[0].experts.size(), 200u);
}

TEST(Import, SameFilesForAnyNumberOfThreads) {
  const TemporaryFolder folder;
  const std::string load = folder.write("load.json", kLoad);
  const std::string trace = write_trace(folder);
  for (const bool raw : {false, true}) {
    for (const ImportSource& source :
         {ImportSource{.paths = {load}},
          ImportSource{.format = LoadFormat::kTrace, .paths = {trace}}}) {
      std::set<std::string> seen;
      for (const int threads : {1, 2, 5}) {
        ImportOptions options = small_options();
        options.raw = raw;
        options.threads = threads;
        ASSERT_TRUE(import_statistics(source, options, folder / "out").is_ok());
        seen.insert(fingerprint(folder / "out"));
      }
      EXPECT_EQ(seen.size(), 1u);
      ImportOptions other = small_options();
      other.raw = raw;
      other.seed = 6;
      ASSERT_TRUE(import_statistics(source, other, folder / "out").is_ok());
      EXPECT_FALSE(seen.contains(fingerprint(folder / "out")));
    }
  }
}

TEST(Import, ErrorsLeaveTheFolderAsItWas) {
  const TemporaryFolder folder;
  const ImportSource good{.paths = {folder.write("load.json", kLoad)}};
  const std::string out = folder / "out";
  ASSERT_TRUE(import_statistics(good, small_options(), out).is_ok());
  const std::string before = fingerprint(out);

  const ImportSource bad{.paths = {folder.write("bad.json", R"({"logical_count": [[1, -2]]})")}};
  EXPECT_THAT(error_of(import_statistics(bad, small_options(), out)), HasSubstr("expert 1: -2"));
  EXPECT_THAT(error_of(import_statistics({.paths = {"a", "b"}}, small_options(), out)),
              HasSubstr("--input: must be one file"));
  const auto with = [&](auto change) {
    ImportOptions options = small_options();
    change(options);
    return error_of(import_statistics(good, options, out));
  };
  EXPECT_EQ(with([](auto& o) { o.num_ranks = 0; }), "--ranks 0: must be from 1 to 1024");
  EXPECT_THAT(with([](auto& o) { o.num_iterations = -1; }), HasSubstr("--iterations -1"));
  EXPECT_THAT(with([](auto& o) { o.tokens_per_rank = 0; }), HasSubstr("--tokens_per_rank 0"));
  EXPECT_EQ(with([](auto& o) { o.top_k = 5; }), "--top_k 5: must be from 1 to 4");
  EXPECT_EQ(with([](auto& o) { o.top_k = -1; }), "--top_k -1: must be from 1 to 4");
  EXPECT_EQ(with([](auto& o) { o.top_k = 0; }), "--top_k 8: must be from 1 to 4");
  EXPECT_THAT(with([](auto& o) {
                o.num_iterations = 1'000'000;
                o.tokens_per_rank = 1 << 20;
                o.raw = true;
              }),
              HasSubstr("more than 4 GiB a rank"));
  const ImportSource sparse{.paths = {folder.write("s.json", R"({"logical_count": [[1, 0, 0]]})")}};
  ImportOptions raw = small_options();
  raw.raw = true;
  EXPECT_THAT(error_of(import_statistics(sparse, raw, out)),
              HasSubstr("s.json: layer 0: 1 experts have load, too few to give a token 2"));
  const ImportSource trace{.format = LoadFormat::kTrace, .paths = {write_trace(folder)}};
  ImportOptions top_k = small_options();
  top_k.top_k = 3;
  EXPECT_THAT(error_of(import_statistics(trace, top_k, out)), HasSubstr("--top_k 3: "));
  EXPECT_EQ(fingerprint(out), before);

  EXPECT_THAT(error_of(import_statistics(good, small_options(), folder.path())),
              HasSubstr("which is no statistics file"));
  EXPECT_FALSE(path_exists(folder / "meta_info.json"));
}

TEST(Import, FullDiskLeavesTheFolderAsItWas) {
  const TemporaryFolder folder;
  const ImportSource source{.paths = {folder.write("load.json", kLoad)}};
  const std::string out = folder / "out";
  ASSERT_TRUE(import_statistics(source, small_options(), out).is_ok());
  const std::string before = fingerprint(out);
  for (const std::string& target : {out, folder / "new"}) {
    const FileSizeLimit limit(1000);
    const Status status = import_statistics(source, small_options(), target).status();
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_THAT(status.message(), HasSubstr(".safetensors: cannot write"));
  }
  EXPECT_EQ(fingerprint(out), before);
  EXPECT_FALSE(path_exists(folder / "new"));
}

}  // namespace
}  // namespace wideep::eplb
