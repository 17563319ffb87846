// MPI worlds of real processes: each test starts tests/mpi_ranks.cc under mpirun and looks at what
// it prints and how it ends. The cases are those of the local worlds (dist_test).
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

#include "dist/rank_cases_testing.h"

namespace wideep::dist {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Ended {
  int exit_code = -1;  // 124: it did not end in time
  std::string output;  // both streams
};

int occurrences(const std::string& text, const std::string& of) {
  int count = 0;
  for (size_t at = text.find(of); at != std::string::npos; at = text.find(of, at + 1)) ++count;
  return count;
}

Ended run_ranks(int size, const std::string& arguments) {
  // As root and with more ranks than cores, as in containers; ranks must not be tied to cores then.
  const std::string command = fmt::format(
      "timeout 60 {} --allow-run-as-root --oversubscribe --bind-to none -n {} {} {} 2>&1",
      WIDEEP_MPIEXEC, size, WIDEEP_MPI_RANKS, arguments);
  Ended ended;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return ended;
  std::array<char, 4096> buffer;
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    ended.output.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ended.exit_code = WEXITSTATUS(status);
  return ended;
}

TEST(MpiWorldTest, PassesOnEverySize) {
  for (const int size : {1, 2, 3, 4, 7}) {
    const Ended ended = run_ranks(size, "passing");
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_EQ(ended.output, fmt::format("{} ranks: ok\n", size));
  }
}

TEST(MpiWorldTest, PassesWithBusyPollingAndSmallPieces) {
  const Ended ended = run_ranks(3, "passing busy pieces");
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_EQ(ended.output, "3 ranks: ok\n");
}

class MpiFailureTest : public testing::TestWithParam<RankCase> {};

INSTANTIATE_TEST_SUITE_P(Cases, MpiFailureTest, testing::ValuesIn(failing_cases()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(MpiFailureTest, EndsAllRanksWithOneMessage) {
  const Ended ended = run_ranks(3, GetParam().name);
  EXPECT_EQ(ended.exit_code, 1) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("error: rank 2: "));
  EXPECT_EQ(occurrences(ended.output, kFailureMessage), 1) << ended.output;
  EXPECT_THAT(ended.output, Not(HasSubstr("killed")));
}

TEST(MpiWorldErrorTest, AKilledProcessEndsTheJob) {
  const Ended ended = run_ranks(3, "die");
  EXPECT_NE(ended.exit_code, 0);
  EXPECT_NE(ended.exit_code, 124) << "it hung: " << ended.output;
  EXPECT_THAT(ended.output, Not(HasSubstr("ok")));
}

TEST(MpiWorldErrorTest, ARankThatHangsElsewhereIsKilled) {
  const Ended ended = run_ranks(3, "fail_while_one_hangs");
  EXPECT_EQ(ended.exit_code, 1) << ended.output;
  EXPECT_EQ(occurrences(ended.output, std::string("killed: rank 2: ") + kFailureMessage), 1)
      << ended.output;
  EXPECT_EQ(occurrences(ended.output, kFailureMessage), 1) << ended.output;
}

TEST(MpiWorldErrorTest, ARankThatEndsEarlyIsNamed) {
  const Ended ended = run_ranks(3, "end_early");
  EXPECT_EQ(ended.exit_code, 1) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("calls barrier where rank 0 calls nothing more"));
}

}  // namespace
}  // namespace wideep::dist
