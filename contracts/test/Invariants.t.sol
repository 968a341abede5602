// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Trees, vm} from "./Vm.sol";

/// @dev Drives two sessions at random, with coordinators that are honest at one moment and thieves at the next, and
/// keeps books of its own.
contract Driver {
    /// @dev What a round really granted: its tree adds up to no more than the round added to `owed`.
    struct Granted {
        uint256 which;
        uint64 round;
        address account;
        uint96 amount;
        bool paid;
    }

    HyperGPULedger public immutable ledger;
    bytes32[2] public ids;
    address[5] public accounts = [address(0xA1), address(0xB0), address(0xCA), address(0xC0FFEE), address(0xC0DE)];
    address[2] public coordinators = [address(0xC0FFEE), address(0xC0DE)]; // they contribute as well
    HyperGPULedger.Commitment[][2] private _history;
    Granted[] private _granted;
    mapping(bytes32 trial => HyperGPULedger.Grant) private _grants;
    mapping(bytes32 id => uint256) public given;
    mapping(bytes32 id => uint256) public refunded;
    mapping(bytes32 id => uint256) public received;
    mapping(bytes32 id => uint256) public promised;
    bool public cheated;

    constructor(HyperGPULedger ledger_) payable {
        ledger = ledger_;
        for (uint256 i = 0; i < 2; ++i) {
            vm.deal(coordinators[i], 1 ether);
            vm.prank(coordinators[i]);
            ids[i] = ledger.open{value: 1 ether}(bytes32(i));
            given[ids[i]] = 1 ether;
        }
    }

    receive() external payable {}

    function granted() external view returns (uint256) {
        return _granted.length;
    }

    function grantOf(uint256 i) external view returns (Granted memory) {
        return _granted[i];
    }

    /// @dev An honest round: some accounts earn, and `owed` grows by their sum.
    function commit(uint256 which, uint256 who, uint96 amount) external {
        _commitTree(which % 2, who, amount, 0, 0);
    }

    /// @dev A round that grants less than it adds, or promises more than it adds.
    function commitAskew(uint256 which, uint256 who, uint96 amount, uint96 less, uint96 more) external {
        _commitTree(which % 2, who, amount, less % 1 gwei, more % 1 gwei);
    }

    /// @dev The same `owed`, or a little more, with a root that is zero or names the coordinator for everything.
    function commitTheft(uint256 which, uint96 more, bool zero) external {
        which %= 2;
        bytes32 id = ids[which];
        HyperGPULedger.SessionState memory s = ledger.session(id);
        uint128 owed = uint128(s.owed + more % 1 gwei);
        bytes32 root = zero ? bytes32(0) : Trees.rewardLeaf(id, s.coordinator, uint96(owed));
        if (!_commit(which, root, owed) || zero || owed == 0) return;
        if (owed == owed - s.owed) {
            _record(which, s.coordinator, uint96(owed), new HyperGPULedger.Sibling[](0));
            return;
        }
        uint64 round = uint64(_history[which].length);
        HyperGPULedger.Grant memory loot = HyperGPULedger.Grant(round, uint96(owed), new HyperGPULedger.Sibling[](0));
        if (_claim(which, s.coordinator, loot, round)) cheated = true;
    }

    function commitTooMuch(uint256 which, uint128 excess, uint64 round) external {
        bytes32 id = ids[which % 2];
        HyperGPULedger.SessionState memory s = ledger.session(id);
        uint128 owed = uint128(s.pool) + 1 + excess % 1 ether;
        vm.prank(s.coordinator);
        try ledger.commitRound(id, s.next, 0, 0, 0, owed) {
            cheated = true;
        } catch {}
        if (round != s.next) {
            vm.prank(s.coordinator);
            try ledger.commitRound(id, round, 0, 0, 0, uint128(s.owed)) {
                cheated = true;
            } catch {}
        }
        if (s.owed == 0) return;
        vm.prank(s.coordinator);
        try ledger.commitRound(id, s.next, 0, 0, 0, uint128(s.owed) - 1) {
            cheated = true;
        } catch {}
    }

    function commitAsStranger(uint256 which, address stranger) external {
        bytes32 id = ids[which % 2];
        HyperGPULedger.SessionState memory s = ledger.session(id);
        if (stranger == s.coordinator) return;
        vm.prank(stranger);
        try ledger.commitRound(id, s.next, 0, 0, 0, uint128(s.owed)) {
            cheated = true;
        } catch {}
    }

    /// @dev Claims anything that was ever granted, against any head since. What was paid already must fail, everything
    /// else succeed.
    function claim(uint256 i, uint256 later) external returns (bool ok) {
        if (_granted.length == 0) return false;
        Granted storage g = _granted[i % _granted.length];
        HyperGPULedger.Grant memory grant = _grants[_key(g.which, g.round, g.account)];
        ok = _claim(g.which, g.account, grant, g.round + later % (_history[g.which].length + 1 - g.round));
        if (ok == g.paid) cheated = true;
        if (!ok) return false;
        g.paid = true;
        received[ids[g.which]] += g.amount;
    }

    /// @dev Claims more than was granted, or another account's grant.
    function claimMore(uint256 i, uint96 excess, uint256 who) external {
        if (_granted.length == 0) return;
        Granted memory g = _granted[i % _granted.length];
        HyperGPULedger.Grant memory grant = _grants[_key(g.which, g.round, g.account)];
        uint256 last = g.round;
        unchecked {
            grant.amount += 1 + excess % 1 gwei;
        }
        if (_claim(g.which, g.account, grant, last)) cheated = true;
        address other = accounts[who % 5];
        grant.amount = g.amount;
        if (other != g.account && _claim(g.which, other, grant, last)) cheated = true;
    }

    function fund(uint256 which, uint96 amount) external {
        bytes32 id = ids[which % 2];
        uint256 value = amount % 1 ether;
        vm.deal(address(this), address(this).balance + value);
        try ledger.fund{value: value}(id) {
            given[id] += value;
        } catch {}
    }

    function fundTo(uint256 which, uint96 amount, uint96 excess) external {
        bytes32 id = ids[which % 2];
        uint256 before = ledger.session(id).pool;
        uint128 pool = uint128(before) + amount % 1 ether;
        uint256 value = uint256(amount % 1 ether) + excess % 1 ether;
        vm.deal(address(this), address(this).balance + value);
        try ledger.fundTo{value: value}(id, pool) {
            if (ledger.session(id).pool != pool) cheated = true;
            given[id] += pool - before;
        } catch {}
    }

    function pause(uint256 which, bool paused) external {
        bytes32 id = ids[which % 2];
        vm.prank(ledger.session(id).coordinator);
        try ledger.setPaused(id, paused) {} catch {}
    }

    function handOver(uint256 which, uint256 to) external {
        bytes32 id = ids[which % 2];
        vm.prank(ledger.session(id).coordinator);
        ledger.proposeCoordinator(id, coordinators[to % 2]);
        vm.prank(coordinators[to % 2]);
        ledger.acceptCoordinator(id);
    }

    function refund(uint256 which, uint32 later) external {
        bytes32 id = ids[which % 2];
        if (later % 8 == 0) vm.warp(block.timestamp + 90 days);
        vm.prank(ledger.session(id).coordinator);
        try ledger.refund(id) returns (uint256 amount) {
            refunded[id] += amount;
        } catch {}
    }

    function _commitTree(uint256 which, uint256 who, uint96 amount, uint96 less, uint96 more) private {
        bytes32 id = ids[which];
        HyperGPULedger.SessionState memory s = ledger.session(id);
        (address[] memory earning, uint96[] memory amounts) = _earning(who, amount, (s.pool - s.owed) / 5);
        (bytes32 root, uint96 sum) = Trees.rewardTree(id, earning, amounts, 0);
        uint96 added = more < sum ? sum - more + less : sum + less;
        if (!_commit(which, root, uint128(s.owed) + added) || sum > added) return;
        uint64 round = uint64(_history[which].length);
        for (uint256 i = 0; i < earning.length; ++i) {
            if (amounts[i] == 0) continue;
            _record(which, earning[i], amounts[i], Trees.grant(id, round, earning[i], earning, amounts).proof);
        }
    }

    /// @dev The accounts whose bit in `who` is set, and shares of `most` for them.
    function _earning(uint256 who, uint96 amount, uint256 most)
        private
        view
        returns (address[] memory earning, uint96[] memory amounts)
    {
        uint256 count;
        for (uint256 i = 0; i < 5; ++i) {
            if ((who >> i) & 1 == 1) ++count;
        }
        (earning, amounts) = (new address[](count), new uint96[](count));
        for (uint256 i = 5; i > 0; --i) {
            if ((who >> (i - 1)) & 1 == 0) continue;
            --count;
            (earning[count], amounts[count]) = (accounts[i - 1], uint96((amount >> i) % (most + 1)));
        }
    }

    function _commit(uint256 which, bytes32 root, uint128 owed) private returns (bool) {
        HyperGPULedger.SessionState memory s = ledger.session(ids[which]);
        vm.prank(s.coordinator);
        try ledger.commitRound(ids[which], uint64(s.next), root, 0, root, owed) {
            _history[which].push(HyperGPULedger.Commitment(uint64(s.next), root, 0, root, owed));
            return true;
        } catch {
            return false;
        }
    }

    function _record(uint256 which, address account, uint96 amount, HyperGPULedger.Sibling[] memory proof) private {
        uint64 round = uint64(_history[which].length);
        _granted.push(Granted(which, round, account, amount, false));
        HyperGPULedger.Grant storage kept = _grants[_key(which, round, account)];
        (kept.round, kept.amount) = (round, amount);
        for (uint256 i = 0; i < proof.length; ++i) {
            kept.proof.push(proof[i]);
        }
        promised[ids[which]] += amount;
    }

    function _key(uint256 which, uint64 round, address account) private pure returns (bytes32) {
        return keccak256(abi.encode(which, round, account));
    }

    function _claim(uint256 which, address account, HyperGPULedger.Grant memory grant, uint256 last)
        private
        returns (bool)
    {
        bytes32 before = ids[which];
        uint256 first = grant.round > 1 ? grant.round - 1 : 1;
        HyperGPULedger.Commitment[] memory rounds = new HyperGPULedger.Commitment[](last + 1 - first);
        for (uint256 round = 1; round <= last; ++round) {
            HyperGPULedger.Commitment memory c = _history[which][round - 1];
            if (round < first) before = Trees.head(before, c.round, c.root, c.model, c.rewards, c.owed);
            else rounds[round - first] = c;
        }
        HyperGPULedger.Grant[] memory grants = new HyperGPULedger.Grant[](1);
        grants[0] = grant;
        uint256 balance = account.balance;
        try ledger.claim(ids[which], account, before, rounds, grants) returns (uint256 amount) {
            if (account.balance != balance + amount || amount != grant.amount) cheated = true;
            return true;
        } catch {
            return false;
        }
    }
}

contract InvariantsTest {
    HyperGPULedger private _ledger;
    Driver private _driver;

    function setUp() public {
        vm.warp(1_700_000_000);
        _ledger = new HyperGPULedger();
        _driver = new Driver(_ledger);
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_driver);
    }

    function invariant_the_contract_holds_exactly_what_sessions_have_not_paid_out() public view {
        uint256 held;
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 id = _driver.ids(i);
            HyperGPULedger.SessionState memory s = _ledger.session(id);
            held += s.pool - s.paid;
            require(_driver.given(id) == s.pool + _driver.refunded(id), "wei lost or made");
        }
        require(address(_ledger).balance == held, "insolvent");
    }

    function invariant_paid_never_exceeds_what_was_granted_nor_that_owed_nor_owed_the_pool() public view {
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 id = _driver.ids(i);
            HyperGPULedger.SessionState memory s = _ledger.session(id);
            require(s.paid == _driver.received(id), "paid differs from received");
            require(s.paid <= _driver.promised(id) && _driver.promised(id) <= s.owed && s.owed <= s.pool, "overpaid");
        }
    }

    /// @dev Forge undoes what is called here, so that everybody can claim everything after every sequence.
    function invariant_whatever_was_granted_is_paid_whenever_it_is_asked_for() public {
        for (uint256 i = 0; i < _driver.granted(); ++i) {
            bool paid = _driver.grantOf(i).paid;
            require(_driver.claim(i, i) != paid, paid ? "paid twice" : "a grant was lost");
        }
        for (uint256 i = 0; i < 2; ++i) {
            bytes32 id = _driver.ids(i);
            require(_ledger.session(id).paid == _driver.promised(id), "not all was paid");
        }
    }

    function invariant_no_dishonest_call_ever_succeeds() public view {
        require(!_driver.cheated(), "cheated");
    }
}
