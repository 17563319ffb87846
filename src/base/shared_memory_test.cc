#include "base/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/random.h"
#include "base/text.h"

namespace wideep {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::StartsWith;
using Access = SharedMemory::Access;

constexpr int64_t kBytes = 100'000;  // no multiple of a page

// A folder of its own, so that no test sees segments of other runs.
class SharedMemoryTest : public ::testing::Test {
 protected:
  SharedMemoryOptions options() const { return {.folder = folder_.path()}; }
  SharedMemory memory() const { return SharedMemory(options()); }
  std::vector<std::string> files() const { return list_directory(folder_.path()).value(); }

  TemporaryFolder folder_;
};

// Runs `body` in a process of its own, which ends without the destructors of this one's objects.
// Its exit status as of waitpid.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// A segment of a process that was killed; its name.
std::string leave_behind(const SharedMemoryOptions& options, const std::string& what,
                         int64_t bytes) {
  int name[2];
  EXPECT_EQ(::pipe(name), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    SharedMemory memory(options);
    const Result<SharedSegment> segment = memory.create(what, bytes);
    if (!segment.is_ok()) ::_exit(1);
    const std::string& text = segment->name();
    if (::write(name[1], text.data(), text.size()) < 0) ::_exit(1);
    ::close(name[1]);
    ::pause();
  }
  ::close(name[1]);
  std::string text(256, '\0');
  const ssize_t size = ::read(name[0], text.data(), text.size());
  ::close(name[0]);
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return text;
}

TEST_F(SharedMemoryTest, IsNamedAfterItsProcessAndGoneWithIt) {
  SharedMemory memory = this->memory();
  {
    const SharedSegment segment = memory.create("layer_3", kBytes).value();
    EXPECT_THAT(segment.name(), MatchesRegex(fmt::format("wideep_{}_[0-9]+_layer_3", ::getpid())));
    EXPECT_EQ(files(), std::vector{segment.name()});
    ASSERT_EQ(std::ssize(segment.bytes()), kBytes);
    EXPECT_TRUE(std::ranges::all_of(segment.bytes(), [](std::byte b) { return b == std::byte{}; }));
    struct stat info {};
    ASSERT_EQ(::stat((folder_ / segment.name()).c_str(), &info), 0);
    EXPECT_GE(info.st_blocks * 512, kBytes) << "reserved";
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    EXPECT_THAT(error_of(memory.create("layer_3", kBytes)), HasSubstr("a name of its own"));
    EXPECT_EQ(files().size(), 1U) << "the second must not remove the first";
  }
  EXPECT_THAT(files(), IsEmpty());
  EXPECT_EQ(memory.leftovers().segments, 0);
}

TEST_F(SharedMemoryTest, ProcessesSeeEachOthersBytes) {
  SharedMemory memory = this->memory();
  const SharedSegment segment = memory.create("weights", kBytes).value();
  segment.bytes()[kBytes - 1] = std::byte{7};
  const int status = in_child([&] {
    const auto own = SharedMemory(options()).open(segment.name(), kBytes, Access::kReadWrite);
    if (!own.is_ok() || own->bytes()[kBytes - 1] != std::byte{7}) return 1;
    own->bytes()[0] = std::byte{9};
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(segment.bytes()[0], std::byte{9});
  EXPECT_EQ(files().size(), 1U) << "who opens does not remove";
}

TEST_F(SharedMemoryTest, OpenForReadingCannotBeWrittenTo) {
  const SharedSegment segment = memory().create("weights", kBytes).value();
  const int status = in_child([&] {
    const auto own = memory().open(segment.name(), kBytes, Access::kRead).value();
    own.bytes()[0] = std::byte{9};
    return 0;
  });
  EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) != 0);  // a sanitizer exits by itself
  EXPECT_EQ(segment.bytes()[0], std::byte{0});
}

TEST_F(SharedMemoryTest, AForkDoesNotRemoveItsParentsSegment) {
  SharedSegment segment = memory().create("weights", kBytes).value();
  EXPECT_EQ(in_child([&] {
              const SharedSegment inherited = std::move(segment);
              return 0;
            }),
            0);
  EXPECT_EQ(files(), std::vector{segment.name()});
}

TEST_F(SharedMemoryTest, WithoutItsNameItLivesAsLongAsItsMaps) {
  SharedSegment segment = memory().create("weights", kBytes).value();
  const SharedSegment other = memory().open(segment.name(), kBytes, Access::kReadWrite).value();
  segment.remove_name();
  EXPECT_THAT(files(), IsEmpty());
  other.bytes()[5] = std::byte{3};
  EXPECT_EQ(segment.bytes()[5], std::byte{3});
  segment = SharedSegment();
  EXPECT_EQ(other.bytes()[5], std::byte{3});
}

TEST_F(SharedMemoryTest, TheFirstSegmentRemovesWhatAKilledProcessLeft) {
  const std::string first = leave_behind(options(), "a", kBytes);
  const std::string second = leave_behind(options(), "b_c", 3 * kBytes);
  // The second run has removed what the first left.
  EXPECT_EQ(files(), std::vector{second});
  folder_.write("unrelated", "1");
  SharedMemory memory = this->memory();
  EXPECT_EQ(memory.leftovers().segments, 0) << "nothing was looked for yet";
  const SharedSegment own = memory.create("a", kBytes).value();
  EXPECT_EQ(memory.leftovers().segments, 1);
  EXPECT_GE(memory.leftovers().bytes, 3 * kBytes);
  EXPECT_EQ(files(), (std::vector<std::string>{"unrelated", own.name()}));
  // Later ones do not look again.
  const std::string third = folder_.write("wideep_999999999_1_x", "1");
  const SharedSegment next = memory.create("b", kBytes).value();
  EXPECT_TRUE(path_exists(third));
}

TEST_F(SharedMemoryTest, OnlySegmentsOfTheDeadAreRemoved) {
  const SharedSegment alive = memory().create("alive", kBytes).value();
  const auto parts = split(alive.name(), '_');
  const int64_t start = parse_int(parts[2]).value();
  // A later process with a pid that was used before.
  const std::string recycled = fmt::format("wideep_{}_{}_x", ::getpid(), start + 1);
  const std::string dead = "wideep_999999999_1_x";
  const std::string held = "wideep_999999999_1_held";  // by a process with pids of its own
  std::set<std::string> kept = {
      alive.name(),        held,           "wideep",        "wideep_1",
      "wideep_x_1_a",      "wideep_0_1_a", "wideep_-5_1_a", "wideepx_99_1_a",
      "wideep_999999999_a"};
  Random random(1);
  for (int i = 0; i < 200; ++i) {
    // Pieces of such names in any order; those that come out right by chance are left out.
    std::string name;
    for (uint64_t n = 1 + random.below(4); n > 0; --n) {
      constexpr const char* kPieces[] = {"wideep", "_", "9", "x", ".", "-", "1"};
      name += kPieces[random.below(std::size(kPieces))];
    }
    if (!name.starts_with("wideep_9_") && name != "." && name != "..") kept.insert(name);
  }
  for (const std::string& name : kept) {
    if (name != alive.name()) folder_.write(name, "1");
  }
  for (const std::string& name : {recycled, dead}) folder_.write(name, "1");
  const int lock = ::open((folder_ / held).c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_SH), 0);
  SharedMemory memory = this->memory();
  const SharedSegment own = memory.create("own", kBytes).value();
  ::close(lock);
  EXPECT_EQ(memory.leftovers().segments, 2);
  kept.insert(own.name());
  EXPECT_EQ(files(), std::vector(kept.begin(), kept.end()));
}

TEST_F(SharedMemoryTest, TooLittleRoomIsSaidBeforeAnythingIsTaken) {
  struct statvfs info {};
  ASSERT_EQ(::statvfs(folder_.path().c_str(), &info), 0);
  const auto free = static_cast<int64_t>(info.f_bavail * info.f_frsize);
  for (const int64_t bytes : {free + (int64_t{1} << 40), int64_t{1} << 62, INT64_MAX}) {
    const Result<SharedSegment> segment = memory().create("weights", bytes);
    EXPECT_EQ(segment.status().code(), StatusCode::kIo);
    EXPECT_THAT(error_of(segment),
                MatchesRegex(fmt::format(".*: no room for wideep_.*_weights: {} bytes wanted, "
                                         "[0-9]+ free: .*mount -o remount,size=SIZE.*",
                                         bytes)));
    EXPECT_THAT(files(), IsEmpty());
  }
}

TEST_F(SharedMemoryTest, AFileThatMayNotGrowIsAnError) {
  const FileSizeLimit limit(kBytes / 2);
  EXPECT_THAT(error_of(memory().create("weights", kBytes)),
              HasSubstr("cannot be made 100000 bytes long"));
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(SharedMemoryTest, AFolderThatIsNotThereIsAnError) {
  SharedMemory memory({.folder = folder_ / "none"});
  EXPECT_THAT(error_of(memory.create("weights", kBytes)), HasSubstr("none/wideep_"));
}

TEST_F(SharedMemoryTest, OpenNamesWhatIsWrong) {
  const SharedMemory memory = this->memory();
  for (const char* name : {"", "x", "../wideep_1_2_x", "wideep_1_2", "wideep_1_2_x/../y"}) {
    const auto segment = memory.open(name, kBytes, Access::kRead);
    EXPECT_EQ(segment.status().code(), StatusCode::kInvalidInput) << name;
    EXPECT_THAT(error_of(segment), HasSubstr("not the name of a segment"));
  }
  const auto missing = memory.open("wideep_999999999_1_x", kBytes, Access::kRead);
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(error_of(missing), HasSubstr("the process that made it has ended"));
  const SharedSegment segment = this->memory().create("weights", kBytes).value();
  EXPECT_THAT(error_of(memory.open(segment.name(), kBytes + 1, Access::kRead)),
              HasSubstr("has 100000 bytes, must have 100001"));
}

// Policies as the kernel writes them.
class HugePagesTest : public SharedMemoryTest {
 protected:
  void SetUp() override {
    policies_.write("enabled", "always madvise [never]\n");
    policies_.write("defrag", "always defer defer+madvise [madvise] never\n");
    set_shmem("always within_size [advise] never deny force\n");
  }
  void set_shmem(const char* text) { policies_.write("shmem_enabled", text); }

  SharedMemoryOptions huge(std::function<int(void*, size_t, int)> advise) const {
    return {.huge_pages = true,
            .folder = folder_.path(),
            .huge_page_folder = policies_.path(),
            .advise = std::move(advise)};
  }
  static int granted(void*, size_t, int) { return 0; }

  TemporaryFolder policies_;
};

TEST_F(HugePagesTest, RefusedIsTheErrorOfTheTroubleshootingGuide) {
  SharedMemory memory(huge([](void*, size_t, int) {
    errno = EINVAL;
    return -1;
  }));
  const Result<SharedSegment> segment = memory.create("weights", kBytes);
  EXPECT_EQ(segment.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(error_of(segment),
            fmt::format("madvise(MADV_HUGEPAGE) failed: Invalid argument: check if Transparent "
                        "Hugepages are enabled. {0}/enabled: always madvise [never]. {0}/defrag: "
                        "always defer defer+madvise [madvise] never. If never is chosen there, "
                        "enable them: `echo madvise > {0}/enabled`",
                        policies_.path()));
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(HugePagesTest, AKernelWithoutThemHasNoFiles) {
  SharedMemoryOptions options = huge([](void*, size_t, int) {
    errno = EINVAL;
    return -1;
  });
  options.huge_page_folder = policies_ / "none";
  EXPECT_THAT(error_of(SharedMemory(options).create("weights", kBytes)),
              StartsWith("madvise(MADV_HUGEPAGE) failed: Invalid argument: check if Transparent "
                         "Hugepages are enabled. " +
                         (policies_ / "none/enabled") + ": missing, this kernel has no such"));
}

TEST_F(HugePagesTest, AreAskedForBeforeThePagesAreThere) {
  std::vector<int> advice;
  bool was_empty = false;
  SharedMemory memory(huge([&](void* data, size_t bytes, int what) {
    EXPECT_EQ(bytes, static_cast<size_t>(kBytes));
    EXPECT_NE(data, nullptr);
    if (advice.empty()) {
      struct stat info {};
      was_empty = ::stat((folder_ / files()[0]).c_str(), &info) == 0 && info.st_blocks == 0;
    }
    advice.push_back(what);
    return 0;
  }));
  const SharedSegment segment = memory.create("weights", kBytes).value();
  ASSERT_FALSE(advice.empty());
  EXPECT_EQ(advice[0], MADV_HUGEPAGE);
  EXPECT_TRUE(was_empty);
  EXPECT_EQ(segment.huge_page_note(), "");
  advice.clear();
  const auto other = memory.open(segment.name(), kBytes, Access::kRead);
  EXPECT_EQ(advice, std::vector{MADV_HUGEPAGE});
}

TEST_F(HugePagesTest, APolicyThatDoesNotGrantThemIsReported) {
  for (const char* text : {"always within_size advise [never] deny force\n",
                           "always within_size advise never [deny] force\n"}) {
    set_shmem(text);
    SharedMemory memory(huge(granted));
    const SharedSegment segment = memory.create("weights", kBytes).value();
    EXPECT_EQ(segment.huge_page_note(),
              fmt::format("huge pages are not granted: {0}/shmem_enabled: {1}; to get them: `echo "
                          "advise > {0}/shmem_enabled`",
                          policies_.path(), trim(text)));
  }
  for (const char* text : {"[always] within_size advise never deny force\n",
                           "always within_size advise never deny [force]\n"}) {
    set_shmem(text);
    EXPECT_EQ(SharedMemory(huge(granted)).create("weights", kBytes)->huge_page_note(), "");
  }
}

// The system's own call, on the system's own shared memory.
TEST(SharedMemorySystem, GivesMemoryOrSaysWhyNot) {
  if (!is_directory("/dev/shm")) GTEST_SKIP() << "no /dev/shm";
  SharedMemory memory({.huge_pages = true});
  const Result<SharedSegment> segment = memory.create("self_test", 4 << 20);
  if (!segment.is_ok()) {
    EXPECT_THAT(error_of(segment), StartsWith("madvise(MADV_HUGEPAGE) failed: "));
    return;
  }
  std::ranges::fill(segment->bytes(), std::byte{1});
  EXPECT_TRUE(path_exists("/dev/shm/" + segment->name()));
}

}  // namespace
}  // namespace wideep
