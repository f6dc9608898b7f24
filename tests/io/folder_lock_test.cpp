#include "moelora/io/folder_lock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;

class FolderLockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder.parent_path());
  }
  void TearDown() override { fs::remove_all(folder.parent_path()); }
  fs::path folder = fs::path(::testing::TempDir()) / ("folder_lock_" + std::to_string(::getpid())) / "run";
};

TEST_F(FolderLockTest, SecondHolderIsRefusedByName) {
  const FolderLock first(folder, "moelora train");
  try {
    const FolderLock second(folder, "moelora eval");
    FAIL() << "two holders";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("in use by moelora train (process " + std::to_string(::getpid())),
              std::string::npos)
        << error.what();
  }
}

TEST_F(FolderLockTest, IsFreeAgainAfterItsHolderAndAfterAKilledProcess) {
  { const FolderLock first(folder, "first"); }
  EXPECT_FALSE(fs::exists(folder));  // made by the lock, and nothing was put into it
  const pid_t child = ::fork();
  if (child == 0) {
    const FolderLock held(folder, "killed");
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_TRUE(fs::exists(folder / FolderLock::kFileName));
  EXPECT_NO_THROW(FolderLock(folder, "next"));
}

TEST_F(FolderLockTest, KeepsWhatIsInTheFolderAndIsNoContentItself) {
  const FolderLock lock(folder, "moelora merge");
  EXPECT_TRUE(is_empty_folder(folder));
  std::ofstream(folder / "report.txt") << "kept";
  EXPECT_FALSE(is_empty_folder(folder));
  EXPECT_TRUE(is_empty_folder(folder / "missing"));
  EXPECT_FALSE(is_empty_folder(folder / "report.txt"));
}

TEST_F(FolderLockTest, AFileInTheWayIsAnError) {
  std::ofstream(folder) << "a file";
  EXPECT_THROW(FolderLock(folder, "moelora train"), Error);
}

}  // namespace
}  // namespace moelora::io
